"""Matrix products: linear layers as they decompose, and products of batches of matrices, as attention is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from flowprune.engine.coupling.labels import Array, Block, Layout, block_at, without
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.coupling.rules.pointwise import joined_layouts
from flowprune.engine.tracing import Operation, Reference
from flowprune.engine.tracing.operator_kinds import PRODUCTS

_UNKNOWN = "reads the model's input, or channels that are not known"


@rule(*PRODUCTS)
def matrix_product(operation: Operation, state: Propagation) -> None:
    """Join the left factor's columns with the right factor's rows; the result carries the left's rows and the right's columns."""
    added: Reference | None = operation.argument("self") if operation.name == "aten.addmm" else None
    left: Reference = operation.argument("mat1" if added is not None else "self")
    right: Reference = operation.argument("mat2")
    mixed = [_collapsed(state, tensor, summed) for tensor, summed in ((left, 1), (right, 0))]
    columns, rows = _single(state, left, 1), _single(state, right, 0)
    state.join_blocks(columns, rows, _UNKNOWN)
    across, down = _single(state, right, 1) or mixed[1], _single(state, left, 0) or mixed[0]
    made = across
    if added is not None and state.shape(added)[-1] > 1:
        bias = block_at(state.layout(added), len(state.shape(added)) - 1)
        made = state.join_blocks(across, bias, "a bias of channels that are not known")
    placed = ((0, down), (1, made))
    state.set(operation, tuple(Block((d,), block.labels) for d, block in placed if block is not None))
    (height, depth), width = state.shape(left), state.shape(right)[1]
    _cost(state, ((height, down), (depth, rows), (width, across)))


def _collapsed(state: Propagation, tensor: Reference, summed: int) -> Block | None:
    """Heads in the other dimension, of a factor whose columns (or rows) hold the width of each: they leave as a whole."""
    block = block_at(state.layout(tensor), summed)
    if block is None or len(block.dimensions) == 1:
        return None
    return state.collapse(block, (summed,), "a matrix product mixes a reshaped block")


def _single(state: Propagation, tensor: Reference, dimension: int) -> Block | None:
    block = block_at(state.layout(tensor), dimension)
    return block if block is not None and len(block.dimensions) == 1 else None


def _cost(state: Propagation, sizes: Sequence[tuple[int, Block | None]]) -> None:
    constant = math.prod(size for size, labelled in sizes if labelled is None)
    state.cost(constant, [labelled.labels.reshape(-1) for _, labelled in sizes if labelled is not None])


@rule("aten.bmm", "aten.baddbmm")
def batched_matrix_product(operation: Operation, state: Propagation) -> None:
    """[b, m, k] times [b, k, n]; to ``baddbmm``'s result another tensor is added, entry by entry.

    Where the batch holds attention heads, a factor carries a block [heads, width]. A head leaves as a whole: its labels are joined
    along its width, and the result carries one label a head in its batch dimension. Where pruning goes inside heads, the labels
    of a width that is summed over are joined one by one, and every head keeps the same number.
    """
    added: Reference | None = operation.argument("self") if operation.name == "aten.baddbmm" else None
    left = operation.argument("self" if added is None else "batch1")
    right = operation.argument("mat2" if added is None else "batch2")
    height, depth, width = state.shape(left)[1], state.shape(left)[2], state.shape(right)[2]
    from_left, batch_left = _taken(state, state.layout(left), 2)
    from_right, batch_right = _taken(state, state.layout(right), 1)
    heads: list[Array] = [labels for labels in (batch_left, batch_right) if labels is not None]
    if state.heads == "inside":
        for labels in heads:
            state.freeze(labels, "heads stay; what is pruned is inside them")
    if _has_heads(from_left) and _has_heads(from_right) and state.heads == "inside":
        state.join(from_left.labels, from_right.labels)
    elif _has_heads(from_left) and (_has_heads(from_right) or (from_right is None and batch_right is not None)):
        heads += [_whole(state, block) for block in (from_left, from_right) if block is not None]
    elif _has_heads(from_right) and from_left is None and batch_left is not None:
        heads.append(_whole(state, from_right))
    elif from_left is not None and from_right is not None:
        state.join(from_left.labels, from_right.labels)
    else:
        for alone in (from_left, from_right):
            if alone is not None:
                state.freeze(alone.labels, _UNKNOWN)

    down = _outer(state, state.layout(left), from_left, 1)
    across = _outer(state, state.layout(right), from_right, 2)
    layout: list[Block] = []
    spread = [(block, place) for block, place in ((down, 1), (across, 2)) if _has_heads(block)]
    layout += [Block((place,), block.labels) for block, place in ((down, 1), (across, 2)) if _is_plain(block)]
    if len(spread) == 2:
        if state.heads == "inside":  # [heads, width, width]: entry j of every head leaves together
            for block, place in spread:
                state.join(block.labels[:1], block.labels)
                layout.append(Block((place,), block.labels[0]))
        else:
            heads += [_whole(state, block) for block, _ in spread]
    elif spread:
        ((block, place),) = spread
        layout.append(Block((0, place), block.labels, block.inner))
        if heads:
            state.join(heads[0][:, None], block.labels)
    for labels in heads[1:]:
        state.join(heads[0], labels)
    if heads and len(spread) != 1:
        layout.append(Block((0,), heads[0]))
    if added is not None:
        shape = state.output_shape(operation)
        layout = list(joined_layouts(state, [tuple(layout), state.layout(added)], [shape, state.shape(added)], shape))
    state.set(operation, tuple(layout))
    _bmm_cost(state, state.shape(left)[0], height, depth, width, from_left, down, across, heads)


def _has_heads(block: Block | None) -> TypeGuard[Block]:
    return block is not None and len(block.dimensions) == 2


def _is_plain(block: Block | None) -> TypeGuard[Block]:
    return block is not None and len(block.dimensions) == 1


def _whole(state: Propagation, block: Block) -> Array:
    """Join each head's labels along its width; returns one label a head."""
    rows = block.labels
    state.join(rows[:, :1], rows)
    return rows[:, 0]


def _taken(state: Propagation, layout: Layout, contracted: int) -> tuple[Block | None, Array | None]:
    """The block a factor is contracted over (with the batch, perhaps), and the labels of a batch dimension that is alone."""
    block = block_at(layout, contracted)
    if block is not None and not set(block.dimensions) <= {0, contracted}:
        state.freeze(block.labels, "a product mixes a reshaped block")
        block = None
    alone = next((b.labels for b in layout if b.dimensions == (0,)), None)
    return block, alone


def _outer(state: Propagation, layout: Layout, contracted: Block | None, dimension: int) -> Block | None:
    """The block that survives in the result: over ``dimension``, or over the batch and it."""
    block = block_at(without(layout, [contracted] if contracted else []), dimension)
    if block is not None and not set(block.dimensions) <= {0, dimension}:
        state.freeze(block.labels, "a product mixes a reshaped block")
        return None
    return block


def _bmm_cost(
    state: Propagation,
    batch: int,
    height: int,
    depth: int,
    width: int,
    contracted: Block | None,
    down: Block | None,
    across: Block | None,
    heads: list[Array],
) -> None:
    """A block over the batch and another dimension counts both; the batch is counted once."""
    sizes: list[tuple[int, Block | None]] = []
    counted = False
    for size, block in ((depth, contracted), (height, down), (width, across)):
        if block is not None and len(block.dimensions) == 2:
            if counted:
                block = None
            counted = True
        sizes.append((size, block))
    if not counted:
        sizes.append((batch, Block((0,), heads[0]) if heads else None))
    _cost(state, sizes)
