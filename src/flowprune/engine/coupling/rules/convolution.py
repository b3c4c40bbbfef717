"""Convolutions: ordinary, grouped, depthwise and transposed, in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flowprune.engine.coupling.labels import Array, Block, Layout, block_at, parted
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference
from flowprune.engine.tracing.operator_kinds import CONVOLUTIONS


@rule(*CONVOLUTIONS)
def convolution(operation: Operation, state: Propagation) -> None:
    """Join the input's channels with the weight's second dimension (first, if transposed); the result carries the other one.

    With groups, input channel j of every group reads index j of the weight, so those leave together, and every group must keep
    the same number of filters. Depthwise (one input channel a group) the group itself leaves, with all filters it has.
    """
    x: Reference = operation.argument("input")
    weight: Reference = operation.argument("weight")
    bias: Reference | None = operation.argument("bias")
    transposed: bool = operation.argument("transposed", False)
    groups: int = operation.argument("groups", 1)
    shape, weight_shape = state.shape(x), state.shape(weight)
    channel = len(shape) - len(weight_shape) + 1
    filters, slices = block_at(state.layout(weight), 0), block_at(state.layout(weight), 1)
    for block in state.layout(weight):
        if block.dimensions[0] >= 2:
            state.freeze(block.labels, "a kernel's positions are not channels")
        elif len(block.dimensions) > 1:
            state.freeze(
                block.labels,
                f"the weight of {operation.module or 'a convolution'} is computed in a way that mixes its channels",
            )
            filters = slices = None
    incoming, others = parted(state.layout(x), channel)
    passing = _at_single_positions(operation, state, others)

    out_channels = state.output_shape(operation)[channel]
    first, second = _labels(filters), _labels(slices)
    if transposed:
        made, read, per_group = second, first, weight_shape[1]
    else:
        made, read, per_group = first, second, out_channels // groups
    outgoing: Array | None
    if groups == 1:
        _read(state, incoming, channel, read)
        outgoing = made
    else:
        outgoing = _grouped(operation, state, incoming, made, read, groups, per_group, shape[channel])
    _cost(operation, state, transposed, passing, filters, slices)

    bias_block = block_at(state.layout(bias), 0)
    out_block = Block((channel,), outgoing) if outgoing is not None else None
    joined = state.join_blocks(out_block, bias_block, "a bias") if bias is not None else out_block
    state.set(operation, passing if joined is None else (*passing, Block((channel,), joined.labels)))


def _at_single_positions(operation: Operation, state: Propagation, others: Layout) -> Layout:
    """Blocks beside the channels: they pass where the kernel looks at one position and makes one of it; elsewhere they stay."""
    spatial = len(state.shape(operation.argument("weight"))) - 2
    first = len(state.shape(operation.argument("input"))) - spatial
    kernel = state.shape(operation.argument("weight"))[2:]
    single = {
        first + d
        for d in range(spatial)
        if kernel[d] == 1 and _at(operation, "stride", d) == 1 and _at(operation, "padding", d) == 0
    }
    passing: list[Block] = []
    for block in others:
        if set(block.dimensions) <= single:
            passing.append(block)
        else:
            state.freeze(block.labels, "a convolution slides over this dimension")
    return tuple(passing)


def _at(operation: Operation, argument: str, dimension: int) -> int:
    numbers: Sequence[int] = operation.argument(argument)
    return numbers[dimension if len(numbers) > 1 else 0]


def _labels(block: Block | None) -> Array | None:
    return None if block is None or len(block.dimensions) > 1 else block.labels


def _read(state: Propagation, incoming: Block | None, channel: int, read: Array | None) -> None:
    if incoming is None or read is None:
        if incoming is not None:
            state.freeze(incoming.labels, "read by a weight whose channels are not known")
        if read is not None:
            state.freeze(read, "reads the model's input, or channels that are not known")
        return
    state.join(np.moveaxis(incoming.labels, incoming.dimensions.index(channel), -1), read)


def _grouped(
    operation: Operation,
    state: Propagation,
    incoming: Block | None,
    made: Array | None,
    read: Array | None,
    groups: int,
    per_group: int,
    in_channels: int,
) -> Array | None:
    transposed: bool = operation.argument("transposed", False)
    entering = None if incoming is None or len(incoming.dimensions) > 1 else incoming.labels.reshape(groups, -1)
    if incoming is not None and entering is None:
        state.freeze(incoming.labels, "a grouped convolution reads a reshaped block")
    if entering is None:
        for labels in (made, read):
            if labels is not None:
                state.freeze(labels, "a grouped convolution reads the model's input, or channels that are not known")
        return None
    depthwise = in_channels == groups
    if not transposed:
        # weight [out, in / groups]: index j of the second dimension serves channel j of every group
        if made is None:
            state.freeze(entering, "a grouped convolution whose filters are not known")
            return None
        rows = made.reshape(groups, per_group)
        if depthwise:
            state.join(entering, rows)
            state.count(entering.reshape(-1), "groups", 0, "its groups are")
        else:
            state.balance(rows, fixed=True)
            if read is not None:
                state.join(entering, read[None, :])
            else:
                state.freeze(entering, "read by a weight whose channels are not known")
        return made
    # transposed weight [in, out / groups]: index j of the second dimension is filter j of every group
    if read is None:
        state.freeze(entering, "a grouped convolution whose weight's channels are not known")
        return None
    state.join(entering.reshape(-1), read)
    if depthwise and per_group == 1:
        state.count(entering.reshape(-1), "groups", 0, "its groups are")
        return read
    state.balance(entering, fixed=True)
    return np.tile(made, groups) if made is not None else None


def _cost(
    operation: Operation,
    state: Propagation,
    transposed: bool,
    passing: Layout,
    filters: Block | None,
    slices: Block | None,
) -> None:
    shape = state.shape(operation.argument("input"))
    out_shape = state.output_shape(operation)
    weight_shape = state.shape(operation.argument("weight"))
    spatial = len(weight_shape) - 2
    pruned = {d - len(shape) for block in passing for d in block.dimensions}
    grid = [(shape if transposed else out_shape)[d] for d in range(-spatial, 0) if d not in pruned]
    batch = shape[0] if len(shape) == len(weight_shape) else 1
    # every entry of the weight is used once at each place of the grid, whatever the groups
    constant = batch * math.prod(grid) * math.prod(weight_shape[2:])
    factors: list[Array] = [block.labels.reshape(-1) for block in passing]
    for size, block in ((weight_shape[0], filters), (weight_shape[1], slices)):
        labels = _labels(block)
        if labels is None:
            constant *= size
        else:
            factors.append(labels)
    state.cost(constant, factors)
