"""Views: permuting, adding, dropping and spreading dimensions, and the heart of it, reshaping."""

from __future__ import annotations

import math

import numpy as np

from flowprune.engine.coupling.labels import Array, Block, Layout, reduced, segments
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference

LARGEST_LABEL_ARRAY = 4_000_000
"""Entries; a reshape that would spread labels over more freezes them instead, so that memory stays bounded."""


def _permuted(operation: Operation, state: Propagation, order: list[int]) -> None:
    """``order[new]`` is the old dimension."""
    x: Reference = operation.argument("self")
    places = [order.index(d) for d in range(len(order))]
    state.set(operation, tuple(block.moved(places) for block in state.layout(x)))


@rule("aten.t")
def transposed_matrix(operation: Operation, state: Propagation) -> None:
    """Swap the two dimensions."""
    rank = len(state.shape(operation.argument("self")))
    _permuted(operation, state, list(reversed(range(rank))))


@rule("aten.transpose", "aten.transpose_")
def transpose(operation: Operation, state: Propagation) -> None:
    """Swap two dimensions."""
    rank = len(state.shape(operation.argument("self")))
    a, b = operation.argument("dim0") % rank, operation.argument("dim1") % rank
    order = list(range(rank))
    order[a], order[b] = b, a
    _permuted(operation, state, order)


@rule("aten.permute")
def permute(operation: Operation, state: Propagation) -> None:
    """Reorder the dimensions."""
    rank = len(state.shape(operation.argument("self")))
    _permuted(operation, state, [d % rank for d in operation.argument("dims")])


@rule("aten.unsqueeze", "aten.unsqueeze_")
def unsqueeze(operation: Operation, state: Propagation) -> None:
    """A new dimension of size 1 carries nothing; those behind it move up."""
    x: Reference = operation.argument("self")
    rank = len(state.shape(x))
    new = operation.argument("dim") % (rank + 1)
    state.set(operation, tuple(block.moved([d + (d >= new) for d in range(rank)]) for block in state.layout(x)))


@rule("aten.squeeze", "aten.squeeze_")
def squeeze(operation: Operation, state: Propagation) -> None:
    """Dimensions of size 1 go (they carry nothing); those behind them move down."""
    x: Reference = operation.argument("self")
    shape = state.shape(x)
    dims = operation.argument("dim")
    asked = range(len(shape)) if dims is None else ([dims] if isinstance(dims, int) else dims)
    gone = {d % len(shape) for d in asked if shape[d] == 1}
    state.set(
        operation,
        tuple(block.moved([d - sum(g < d for g in gone) for d in range(len(shape))]) for block in state.layout(x)),
    )


@rule("aten.expand", "aten.expand_copy")
def expand(operation: Operation, state: Propagation) -> None:
    """Dimensions of size 1 are spread; new ones come in front. What is spread carries nothing."""
    x: Reference = operation.argument("self")
    offset = len(state.output_shape(operation)) - len(state.shape(x))
    state.set(
        operation,
        tuple(
            Block(tuple(d + offset for d in block.dimensions), block.labels, block.inner) for block in state.layout(x)
        ),
    )


@rule("aten.as_strided_")
def restrided(operation: Operation, state: Propagation) -> None:
    """Global average pooling gives its fresh result other strides in dimensions of size 1; that changes nothing.

    Anything else freezes: strides may say that any element stands anywhere.
    """
    x: Reference = operation.argument("self")
    maker = state.graph.operations[operation.index - 1] if operation.index else None
    size, stride = operation.argument("size"), operation.argument("stride")
    contiguous = [math.prod(size[d + 1 :]) for d in range(len(size))]
    same = all(s == 1 or a == b for s, a, b in zip(size, stride, contiguous, strict=True))
    if (
        maker is not None
        and maker.name == "aten.mean"
        and x.value in maker.outputs
        and tuple(size) == state.shape(x)
        and same
    ):
        state.set(operation, state.layout(x))
    else:
        state.freeze_inputs(operation, "its elements are placed anew by strides")


@rule("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias", "aten._reshape_copy", "aten.view_copy")
def reshape(operation: Operation, state: Propagation) -> None:
    """Regroup dimensions; the labels are regrouped with them.

    Both shapes are split into the smallest runs with equal products. Inside a run the labels form one array over its dimensions;
    axes along which it does not vary are dropped. A channel dimension that is split becomes a block over several dimensions, and
    every row of it must keep the same number.
    """
    x: Reference = operation.argument("self")
    layout = reshaped(state, state.layout(x), state.shape(x), state.output_shape(operation))
    state.set(operation, layout)
    # Sizes read off tensors and -1 follow by themselves; attributes can be mended; a number in the code stays what it is. Sizes
    # nothing is known of are taken to follow: the certificate finds out.
    sizes = operation.integers.get("size", operation.integers.get("shape", ()))
    for block in layout:
        for axis, dimension in enumerate(block.dimensions):
            if dimension < len(sizes) and sizes[dimension] != ("number", -1):
                state.extent(block, axis, sizes[dimension])


def reshaped(state: Propagation, layout: Layout, source: tuple[int, ...], target: tuple[int, ...]) -> Layout:
    """The layout after a reshape from ``source`` to ``target``."""
    if 0 in source:
        return ()
    runs = segments(source, target)
    result: list[Block] = []
    for left, right in _runs_with_blocks(runs, layout):
        inside = [block for block in layout if set(block.dimensions) & set(left)]
        if not inside:
            continue
        if len(left) == len(right) == 1:
            result.append(Block((right[0],), inside[0].labels))
            continue
        if len(inside) > 1:
            # the product of two channel dimensions: an index leaves when either of its two channels does
            for block in inside:
                state.freeze(block.labels, "a reshape merges two channel dimensions")
            continue
        sizes = [source[d] for d in left]
        if sizes == [target[d] for d in right]:
            places = dict(zip(left, right, strict=True))
            result.append(Block(tuple(places[d] for d in inside[0].dimensions), inside[0].labels, inside[0].inner))
            continue
        rows = inside[0].rows()
        if len(rows) > 1 and inside[0].inner_dimension != inside[0].dimensions[-1]:
            # Behind the inner axis comes another one: element j of every row becomes a neighbour of element j of the others, so
            # the order is only kept if they leave together.
            state.interleave(rows)
        if math.prod(sizes) > LARGEST_LABEL_ARRAY:
            state.freeze(inside[0].labels, "a reshape spreads the channels over too many elements to follow")
            continue
        spread: Array = np.ascontiguousarray(inside[0].over(left, sizes)).reshape([target[d] for d in right])
        regrouped = reduced(right, spread)
        if regrouped is None:
            continue  # a small model's only channel left: nothing varies, and nothing is to be said
        if len(regrouped.dimensions) > 1:
            state.balance(regrouped.labels)
        result.append(regrouped)
    return tuple(result)


def _runs_with_blocks(runs: list[tuple[list[int], list[int]]], layout: Layout) -> list[tuple[list[int], list[int]]]:
    """Merge the runs that share a block, so that each block is inside one run."""
    merged = list(runs)
    for block in layout:
        touched = [run for run in merged if set(run[0]) & set(block.dimensions)]
        if len(touched) > 1:
            left = sorted(d for run in touched for d in run[0])
            right = sorted(d for run in touched for d in run[1])
            merged = [run for run in merged if run not in touched] + [(left, right)]
    return merged
