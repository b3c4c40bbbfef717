"""Concatenating, cutting and padding along the channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowprune.engine.coupling.labels import Array, Block, Layout, block_at, parted
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.coupling.rules.pointwise import joined_layout, joined_layouts
from flowprune.engine.tracing import Operation, Reference


@rule("aten.cat", "aten.concatenate")
def concatenate(operation: Operation, state: Propagation) -> None:
    """The operands' channels one after another; in all other dimensions they are joined."""
    tensors: list[Reference] = [
        t for t in operation.argument("tensors") if len(state.shape(t)) == len(state.output_shape(operation))
    ]
    shape = state.output_shape(operation)
    dimension = operation.argument("dim", 0) % len(shape)
    along = [block_at(state.layout(tensor), dimension) for tensor in tensors]
    if any(block is not None and len(block.dimensions) > 1 for block in along):
        # the rows of a reshaped block grow: what makes up a row leaves as a whole
        layouts = [
            tuple(
                left
                for block in state.layout(tensor)
                if (left := state.collapse(block, (dimension,), "a reshaped block is concatenated")) is not None
            )
            for tensor in tensors
        ]
        state.set(operation, joined_layouts(state, layouts, [state.shape(t) for t in tensors], shape, skip=dimension))
        return
    others = joined_layout(state, tensors, shape, skip=dimension)
    if not any(along):
        state.set(operation, others)
        return
    parts: list[Array] = []
    for slot, (tensor, block) in enumerate(zip(tensors, along, strict=True)):
        if block is None:
            labels = state.fresh(state.shape(tensor)[dimension], slot)
            state.freeze(labels, "concatenated from the model's input, or from channels that are not known")
            parts.append(labels)
        else:
            parts.append(block.labels)
    state.set(operation, (*others, Block((dimension,), np.concatenate(parts))))


def _cut(state: Propagation, operation: Operation) -> tuple[int, Block | None, Layout]:
    """The dimension an operation cuts along, the block there if it is one-dimensional, and the other blocks."""
    x: Reference = operation.argument("self")
    dimension = operation.argument("dim", 0) % len(state.shape(x))
    return dimension, *parted(state.layout(x), dimension)


@rule("aten.slice")
def cut_slice(operation: Operation, state: Propagation) -> None:
    """Keep a run of indices. Where it starts and ends are counts of channels, and must follow them."""
    dimension, block, others = _cut(state, operation)
    size = state.shape(operation.argument("self"))[dimension]
    start, end, step = (
        operation.argument(name, default) for name, default in (("start", None), ("end", None), ("step", 1))
    )
    start = 0 if start is None else start
    end = size if end is None or end > size else end
    if block is None:
        state.set(operation, others)
        return
    if start == 0 and end == size and step == 1:
        state.set(operation, (*others, block))
        return
    if len(block.dimensions) > 1 or step != 1:
        left = state.collapse(block, (dimension,), "a strided slice picks channels by their index")
        state.set(operation, others if left is None else (*others, left))
        return
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    labels = block.labels
    if start > 0:
        state.count(labels[:start], "start", 0, "a slice starts at")
    if end < size:
        state.count(labels[:end], "end", 0, "a slice ends at")
    state.set(operation, (*others, Block((dimension,), labels[start:end])))


@rule("aten.split")
def split(operation: Operation, state: Propagation) -> None:
    """Equal parts. As a chunk they stay equal when every part keeps the same number; a written size must follow."""
    dimension, block, others = _cut(state, operation)
    size: int = operation.argument("split_size")
    _split_into(operation, state, dimension, block, others, [size] * len(operation.outputs), equal=True)


@rule("aten.split_with_sizes")
def split_with_sizes(operation: Operation, state: Propagation) -> None:
    """Parts of given sizes, each a count of channels."""
    dimension, block, others = _cut(state, operation)
    sizes: Sequence[int] = operation.argument("split_sizes")
    _split_into(operation, state, dimension, block, others, sizes, equal=False)


def _split_into(
    operation: Operation,
    state: Propagation,
    dimension: int,
    block: Block | None,
    others: Layout,
    sizes: Sequence[int],
    equal: bool,
) -> None:
    if block is not None and len(block.dimensions) > 1:
        left = state.collapse(block, (dimension,), "a reshaped block is split")
        others = others if left is None else (*others, left)
        block = None
    labels = None if block is None else block.labels
    if labels is not None and equal:
        whole = len(labels) // sizes[0]
        if len(labels) % sizes[0]:
            if operation.python == "chunk":
                state.share([labels[start : start + sizes[0]] for start in range(0, len(labels), sizes[0])])
            else:
                state.freeze(labels, "split into parts of unequal size")
        else:
            state.balance(labels.reshape(whole, sizes[0]))
            if operation.python not in ("chunk", "tensor_split"):
                for row in labels.reshape(whole, sizes[0]):
                    state.count(row, "split_size", 0, "split by")
    start = 0
    for position in range(len(operation.outputs)):
        length = state.output_shape(operation, position)[dimension]
        if labels is None:
            state.set(operation, others, position)
            continue
        part = labels[start : start + length]
        if not equal:
            state.count(part, "split_sizes", position, "split by")
        state.set(operation, (*others, Block((dimension,), part)), position)
        start += length


@rule("aten.unbind")
def unbind(operation: Operation, state: Propagation) -> None:
    """One result an index of the dimension. Rows of a reshaped block are rows; single channels are picked by number."""
    _pick(operation, state, range(len(operation.outputs)))


@rule("aten.select")
def select(operation: Operation, state: Propagation) -> None:
    """One index of the dimension."""
    _pick(operation, state, [operation.argument("index")])


def _pick(operation: Operation, state: Propagation, indices: Sequence[int]) -> None:
    dimension, block, others = _cut(state, operation)
    rank = len(state.shape(operation.argument("self")))
    places = [d - (d > dimension) for d in range(rank)]
    if block is not None and (len(block.dimensions) == 1 or dimension == block.inner_dimension):
        left = state.collapse(block, (dimension,), "a single channel is picked by its number")
        others = others if left is None else (*others, left)
        block = None
    rest = tuple(other.moved(places) for other in others)
    for position, index in enumerate(indices):
        if block is None:
            state.set(operation, rest, position)
            continue
        axis = block.dimensions.index(dimension)
        kept = tuple(d for d in block.dimensions if d != dimension)
        labels = np.ascontiguousarray(block.labels.take(index, axis=axis))
        row = Block(kept, labels, kept.index(block.inner_dimension))
        state.set(operation, (*rest, row.moved(places)), position)


@rule("aten.constant_pad_nd")
def constant_pad(operation: Operation, state: Propagation) -> None:
    """Padding along positions changes nothing; along the channels it makes new ones, as many as the numbers in the code say."""
    x: Reference = operation.argument("self")
    pad: Sequence[int] = operation.argument("pad")
    rank = len(state.shape(x))
    padded = {rank - 1 - place // 2: (pad[place], pad[place + 1], place) for place in range(0, len(pad), 2)}
    layout: list[Block] = []
    for block in state.layout(x):
        widths = {d: padded[d] for d in block.dimensions if d in padded and padded[d][:2] != (0, 0)}
        if not widths:
            layout.append(block)
            continue
        ((before, after, place),) = list(widths.values())[:1]
        if len(block.dimensions) > 1 or before < 0 or after < 0:
            state.freeze(block.labels, "a reshaped block is padded, or channels are cut off by a negative padding")
            continue
        low, high = state.fresh(before, place), state.fresh(after, place + 1)
        state.count(low, "pad", place, "zero channels are padded by")
        state.count(high, "pad", place + 1, "zero channels are padded by")
        layout.append(Block(block.dimensions, np.concatenate([low, block.labels, high])))
    state.set(operation, tuple(layout))
