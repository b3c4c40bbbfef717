"""Operators that work index by index: every operand's labels are joined with every other's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowprune.engine.coupling.labels import Block, Layout
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference

# An allow-list, on purpose: an operator that is tagged pointwise may still look at where an element stands.
_NAMES = """
abs add sub rsub mul div neg pow sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan tanh atan erf erfc
sigmoid logit reciprocal square relu relu6 leaky_relu prelu _prelu_kernel elu celu selu gelu silu mish hardswish
hardsigmoid hardtanh softplus softsign log_sigmoid_forward threshold hardshrink softshrink rrelu rrelu_with_noise
clamp clamp_min clamp_max maximum minimum fmax fmin where lerp addcmul addcdiv sign floor ceil round trunc frac
remainder fmod eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
isnan isfinite isinf _to_copy clone alias detach lift_fresh lift_fresh_copy contiguous copy native_dropout dropout
bernoulli fill zero masked_fill nan_to_num zeros_like ones_like empty_like full_like rand_like randn_like
"""
POINTWISE: tuple[str, ...] = tuple(_NAMES.split())


@rule(*(f"aten.{name}" for name in POINTWISE), *(f"aten.{name}_" for name in POINTWISE))
def pointwise(operation: Operation, state: Propagation) -> None:
    """Join the operands' labels where they are aligned by broadcasting; the result carries them.

    An operand that is spread over a channel dimension without carrying labels (the model's input, a constant of the code) would
    not shrink with it, so the channels are frozen there.
    """
    operands = _tensors(operation)
    shape = state.output_shape(operation)
    layout = joined_layout(state, operands, shape)
    for position, value in enumerate(operation.outputs):
        if value is not None and state.output_shape(operation, position) == shape:
            state.set(operation, layout, position)


def _tensors(operation: Operation) -> list[Reference]:
    return [a for a in (*operation.arguments, *operation.keywords.values()) if isinstance(a, Reference)]


def joined_layout(
    state: Propagation, operands: Sequence[Reference], shape: Sequence[int], skip: int | None = None
) -> Layout:
    """The layout of a tensor of ``shape`` that every operand is broadcast to, after joining theirs.

    Args:
        state: where the joins go.
        operands: the tensors.
        shape: the broadcast shape.
        skip: a dimension in which the operands are not aligned (the one a concatenation runs along).
    """
    layouts = [state.layout(operand) for operand in operands]
    return joined_layouts(state, layouts, [state.shape(operand) for operand in operands], shape, skip)


def joined_layouts(
    state: Propagation,
    layouts: Sequence[Layout],
    shapes: Sequence[Sequence[int]],
    shape: Sequence[int],
    skip: int | None = None,
) -> Layout:
    """As ``joined_layout``, of operands that have these layouts and shapes."""
    placed: list[tuple[Block, int]] = []  # block in the result's dimensions, operand
    sized: list[set[int]] = []  # the result's dimensions over which an operand is spread
    for number, (layout, own) in enumerate(zip(layouts, shapes, strict=True)):
        offset = len(shape) - len(own)
        sized.append({d + offset for d, size in enumerate(own) if size > 1})
        for block in layout:
            moved = Block(tuple(d + offset for d in block.dimensions), block.labels, block.inner)
            if skip is None or skip not in moved.dimensions:
                placed.append((moved, number))
    result: list[Block] = []
    while placed:
        cluster = [placed.pop(0)]
        grown = True
        while grown:
            dimensions = {d for block, _ in cluster for d in block.dimensions}
            more = [entry for entry in placed if dimensions & set(entry[0].dimensions)]
            placed = [entry for entry in placed if not dimensions & set(entry[0].dimensions)]
            cluster += more
            grown = bool(more)
        result.extend(_join_cluster(state, cluster, sized, shape))
    return tuple(result)


def _join_cluster(
    state: Propagation, cluster: list[tuple[Block, int]], sized: list[set[int]], shape: Sequence[int]
) -> list[Block]:
    """Join blocks that overlap; what some operand is spread over without labels, where the others are pruned, stays."""
    dimensions = tuple(sorted({d for block, _ in cluster for d in block.dimensions}))
    bare: set[int] = set()
    for number, spread in enumerate(sized):
        covered = {d for block, owner in cluster if owner == number for d in block.dimensions}
        bare |= (spread & set(dimensions)) - covered
    if dimensions[-1] in bare or bare == set(dimensions) or any(b.inner_dimension in bare for b, _ in cluster):
        reason = "meets a tensor that is spread over the same dimension and is not made of channels"
        collapsed = [(state.collapse(block, bare, reason), owner) for block, owner in cluster]
        cluster = [(block, owner) for block, owner in collapsed if block is not None]
        if not cluster:
            return []
        dimensions = tuple(sorted({d for block, _ in cluster for d in block.dimensions}))
    first = cluster[0][0]
    inner = {block.inner_dimension for block, _ in cluster if len(block.dimensions) > 1}
    if len(inner) > 1:
        for block, _ in cluster:
            rows = block.rows()
            state.interleave(rows)
    if all(block.dimensions == first.dimensions for block, _ in cluster):
        for block, _ in cluster[1:]:
            state.join(first.labels, block.labels)
        return [first]
    whole = next((b for b, _ in cluster if b.dimensions == dimensions), None)
    if whole is not None:
        vectors = [b for b, _ in cluster if b.dimensions == (whole.inner_dimension,)]
        for vector in vectors:
            state.align(whole.rows(), vector.labels)
        rest = [b for b, _ in cluster if b is not whole and not any(b is vector for vector in vectors)]
        for block in rest:
            state.join(whole.labels, block.over(dimensions, whole.labels.shape))
        return [whole]
    sizes = [shape[d] for d in dimensions]
    spread_out = [block.over(dimensions, sizes) for block, _ in cluster]
    for labels in spread_out[1:]:
        state.join(spread_out[0], labels)
    along = dimensions.index(next(iter(sorted(inner)))) if inner else len(dimensions) - 1
    return [Block(dimensions, np.ascontiguousarray(spread_out[0]), along)]
