"""Looking up, rolling, repeating, unfolding and shuffling pixels."""

from __future__ import annotations

import math

import numpy as np
import torch

from flowprune.engine.coupling.labels import Block, block_at, parted
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.coupling.rules.pointwise import joined_layout
from flowprune.engine.tracing import Operation, Reference


@rule("aten.embedding")
def embedding(operation: Operation, state: Propagation) -> None:
    """Rows are picked by number and stay; the columns are the channels of the result."""
    weight: Reference = operation.argument("weight")
    rows, columns = block_at(state.layout(weight), 0), block_at(state.layout(weight), 1)
    if rows is not None:
        state.freeze(rows.labels, "rows of a table are picked by number")
    state.freeze_layout(state.layout(operation.argument("indices")), "numbers that rows of a table are picked by")
    if columns is not None:
        state.set(operation, (Block((len(state.output_shape(operation)) - 1,), columns.labels),))


@rule("aten.index")
def index(operation: Operation, state: Propagation) -> None:
    """Dimensions that are picked from by numbers stay; the others move to where the result has them. A mask picks from as many
    dimensions as it has."""
    x: Reference = operation.argument("self")
    indices = operation.argument("indices")
    picked: list[int] = []
    dimension = 0
    for chosen in indices:
        is_mask = chosen is not None and state.graph.values[chosen.value].dtype in (torch.bool, torch.uint8)
        covered = len(state.shape(chosen)) if is_mask else 1
        picked += range(dimension, dimension + covered) if chosen is not None else ()
        dimension += covered
    if not picked or picked != list(range(picked[0], picked[0] + len(picked))):
        state.freeze_inputs(operation, "picked by numbers in several dimensions apart")
        return
    rank = len(state.output_shape(operation))
    added = rank - (len(state.shape(x)) - len(picked))
    places = [d if d < picked[0] else d - len(picked) + added for d in range(len(state.shape(x)))]
    for chosen in indices:
        state.freeze_layout(state.layout(chosen), "numbers that something is picked by")
    layout: list[Block] = []
    for block in state.layout(x):
        left = state.collapse(block, picked, "channels are picked by numbers")
        if left is not None:
            layout.append(left.moved(places))
    state.set(operation, tuple(layout))


@rule("aten.index_select", "aten.roll", "aten.flip", "aten.repeat_interleave")
def rearranged(operation: Operation, state: Propagation) -> None:
    """The dimensions an operator rearranges stay; the others are as they were."""
    x: Reference = operation.argument("self")
    dims = operation.argument("dims", operation.argument("dim"))
    rank = len(state.shape(x))
    chosen = operation.argument("index")
    if isinstance(chosen, Reference) and state.graph.parameters.get(chosen.value) in state.places:
        # channels that are read leave without those they are read of; surgery numbers the others anew
        _, others = parted(state.layout(x), dims % rank)
        own = block_at(state.layout(chosen), 0)
        read = () if own is None else (Block((dims % rank,), own.labels),)
        state.set(operation, (*others, *read))
        return
    if dims is None or len(state.output_shape(operation)) != rank:
        state.freeze_inputs(operation, f"{operation.name} over the flattened tensor")
        return
    state.freeze_layout(state.layout(operation.argument("index")), "numbers that something is picked by")
    changed = {d % rank for d in ((dims,) if isinstance(dims, int) else dims)}
    layout = [state.collapse(block, changed, f"{operation.name} runs along the channels") for block in state.layout(x)]
    state.set(operation, tuple(block for block in layout if block is not None))


@rule("aten.index_copy")
def index_copy(operation: Operation, state: Propagation) -> None:
    """Channels put into others at their places: they are as many as the places, and may leave without the others. The others may
    leave only where surgery numbers the places anew, and then takes what was to be put there, too."""
    x: Reference = operation.argument("self")
    places: Reference = operation.argument("index")
    source: Reference = operation.argument("source")
    dimension = operation.argument("dim") % len(state.shape(x))
    if state.graph.parameters.get(places.value) not in state.places:
        state.freeze_layout(state.layout(places), "numbers that something is put by")
        for block in (*state.layout(x), *state.layout(source)):
            if dimension in block.dimensions:
                state.freeze(block.labels, "written to by numbers")
        state.set(operation, joined_layout(state, [x, source], state.output_shape(operation), skip=dimension))
        return
    put = block_at(state.layout(source), dimension)
    for block in state.layout(source):
        if block.dimensions != (dimension,):
            state.freeze(block.labels, "put into others together with other dimensions")
            put = None if block is put else put
    state.join_blocks(put, block_at(state.layout(places), 0), "put at places that do not follow")
    state.set(operation, state.layout(x))


@rule("aten.stack")
def stack(operation: Operation, state: Propagation) -> None:
    """A new dimension, which carries nothing; in all others the operands are joined."""
    tensors: list[Reference] = list(operation.argument("tensors"))
    shape = list(state.output_shape(operation))
    new = operation.argument("dim", 0) % len(shape)
    del shape[new]
    places = [d + (d >= new) for d in range(len(shape))]
    state.set(operation, tuple(block.moved(places) for block in joined_layout(state, tensors, shape)))


@rule("aten.repeat")
def repeat(operation: Operation, state: Propagation) -> None:
    """A channel dimension that is repeated carries its labels as often; new dimensions come in front."""
    x: Reference = operation.argument("self")
    times = operation.argument("repeats")
    offset = len(times) - len(state.shape(x))
    layout: list[Block] = []
    for block in state.layout(x):
        dimensions = tuple(d + offset for d in block.dimensions)
        labels = np.tile(block.labels, [times[d] for d in dimensions])
        layout.append(Block(dimensions, labels, block.inner))
    state.set(operation, tuple(layout))


@rule("aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty")
def new_tensor(operation: Operation, state: Propagation) -> None:
    """A new tensor that only takes another's type; it carries nothing."""


@rule("aten.pixel_shuffle")
def pixel_shuffle(operation: Operation, state: Propagation) -> None:
    """r x r neighbouring channels become the pixels of one, so they leave together."""
    x: Reference = operation.argument("self")
    dimension = len(state.shape(x)) - 3
    block, others = parted(state.layout(x), dimension)
    if block is None or len(block.dimensions) > 1:
        state.freeze_layout(state.layout(x), "a pixel shuffle of a reshaped block")
        return
    rows = block.labels.reshape(-1, operation.argument("upscale_factor") ** 2)
    state.join(rows[:, :1], rows)
    state.set(operation, (*others, Block((dimension,), np.ascontiguousarray(rows[:, 0]))))


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(operation: Operation, state: Propagation) -> None:
    """Channel j of every group becomes a neighbour of channel j of the others. The number of groups is the operator's own."""
    x: Reference = operation.argument("self")
    block, others = parted(state.layout(x), 1)
    if block is None or len(block.dimensions) > 1:
        state.freeze_layout(state.layout(x), "a channel shuffle of a reshaped block")
        return
    rows = block.labels.reshape(operation.argument("groups"), -1)
    state.balance(rows, fixed=True)
    state.interleave(rows)
    state.set(operation, (*others, Block((1,), np.ascontiguousarray(rows.T).reshape(-1))))


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(operation: Operation, state: Propagation) -> None:
    """Every channel becomes r x r of them."""
    x: Reference = operation.argument("self")
    dimension = len(state.shape(x)) - 3
    _spread(operation, state, x, dimension, operation.argument("downscale_factor") ** 2)


@rule("aten.im2col")
def im2col(operation: Operation, state: Propagation) -> None:
    """[N, C, H, W] -> [N, C * kernel, positions]: a channel takes as many rows as the kernel has places."""
    x: Reference = operation.argument("self")
    if len(state.shape(x)) != 4:
        state.freeze_inputs(operation, "im2col without a batch")
        return
    _spread(operation, state, x, 1, math.prod(operation.argument("kernel_size")))


def _spread(operation: Operation, state: Propagation, x: Reference, dimension: int, times: int) -> None:
    block, others = parted(state.layout(x), dimension)
    for other in others:
        state.freeze(other.labels, f"{operation.name} runs over this dimension")
    if block is None:
        return
    if len(block.dimensions) > 1:
        state.freeze(block.labels, f"{operation.name} of a reshaped block")
        return
    state.set(operation, (Block((dimension,), np.repeat(block.labels, times)),))


@rule("aten.glu")
def gated_linear_unit(operation: Operation, state: Propagation) -> None:
    """The first half of the channels, gated by the second: element j of both leaves together."""
    x: Reference = operation.argument("self")
    dimension = operation.argument("dim", -1) % len(state.shape(x))
    block, others = parted(state.layout(x), dimension)
    if block is not None and len(block.dimensions) > 1:
        state.freeze(block.labels, "a gated linear unit of a reshaped block")
        block = None
    if block is None:
        state.set(operation, others)
        return
    first, second = block.labels.reshape(2, -1)
    state.join(first, second)
    state.set(operation, (*others, Block((dimension,), first)))
