"""Normalisations: per channel (batch norm), over the channels (layer norm), over groups of channels (group norm)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowprune.engine.coupling.labels import Block, block_at, without
from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference
from flowprune.engine.tracing.operator_kinds import BATCH_NORMS


@rule(*BATCH_NORMS)
def batch_norm(operation: Operation, state: Propagation) -> None:
    """Join the input's channels with weight, bias, running mean and running variance; each channel is normalised by itself."""
    tensors = [operation.argument(name) for name in ("weight", "bias", "running_mean", "running_var")]
    block = _channels(operation, state, 1, tensors, "batch norm")
    for other in without(state.layout(operation.argument("input")), [b for b in [_at(operation, state, 1)] if b]):
        # weight standardisation runs a filter's weights through here: with fewer of them, the rest would be scaled otherwise
        state.freeze(other.labels, "the statistics of a batch norm are taken over this dimension")
    if block is None:
        return
    state.set(operation, (Block((1,), block.labels),))
    for position in range(1, len(operation.outputs)):
        if operation.outputs[position] is not None and state.output_shape(operation, position) == (len(block.labels),):
            state.set(operation, (Block((0,), block.labels),), position)


@rule("aten.native_layer_norm")
def layer_norm(operation: Operation, state: Propagation) -> None:
    """Join the input's channels with weight and bias. The statistics are taken over the channels that are there: over the kept
    ones in the small model, which is what a layer norm of that width means."""
    x: Reference = operation.argument("input")
    normalized = len(operation.argument("normalized_shape"))
    last = len(state.shape(x)) - 1
    tensors: list[Reference | None] = [operation.argument(name) for name in ("weight", "bias")]
    block = None
    if normalized == 1 and (width := block_at(state.layout(x), last)) is not None and len(width.dimensions) > 1:
        # over the width of each head: that stays, and the heads leave as a whole
        rest = state.collapse(width, (last,), "a layer norm over a reshaped block")
        for tensor in tensors:
            state.freeze_layout(state.layout(tensor), "a layer norm over the width of a head")
        others = (*without(state.layout(x), [width]), *([rest] if rest is not None else []))
        for position in range(3):
            state.set(operation, others, position)
        return
    if normalized == 1:
        block = _channels(operation, state, last, tensors, "layer norm")
        if block is not None:
            state.count(block.labels, "normalized_shape", 0, "normalised over")
    elif any(b.dimensions[-1] > last - normalized for b in state.layout(x)):
        state.freeze_inputs(operation, "a layer norm over several dimensions")
    else:  # over positions only: every channel has statistics of its own
        for tensor in tensors:
            state.freeze_layout(state.layout(tensor), "the weight of a layer norm over positions")
    others = tuple(b for b in state.layout(x) if b.dimensions[-1] <= last - normalized)
    state.set(operation, (*others, Block((last,), block.labels)) if block is not None else others)
    for position in (1, 2):
        state.set(operation, others, position)


@rule("aten.native_group_norm")
def group_norm(operation: Operation, state: Propagation) -> None:
    """As a layer norm over each group of channels: every group must keep the same number."""
    x: Reference = operation.argument("input")
    groups: int = operation.argument("group")
    tensors = [operation.argument(name) for name in ("weight", "bias")]
    block = _channels(operation, state, 1, tensors, "group norm")
    others = tuple(b for b in state.layout(x) if 1 not in b.dimensions)
    for other in others:
        state.freeze(other.labels, "a group norm normalises over this dimension")
    if block is None:
        return
    if groups > 1:
        state.balance(block.labels.reshape(groups, -1), fixed=True)
    state.set(operation, (Block((1,), block.labels),))


def _at(operation: Operation, state: Propagation, dimension: int) -> Block | None:
    return block_at(state.layout(operation.argument("input")), dimension)


def _channels(
    operation: Operation, state: Propagation, dimension: int, tensors: Sequence[object], what: str
) -> Block | None:
    """The channels a normalisation works on, joined with its own tensors."""
    block = _at(operation, state, dimension)
    if block is not None and len(block.dimensions) > 1:
        state.freeze(block.labels, f"{what} over a reshaped block")
        block = None
    for tensor in tensors:
        if isinstance(tensor, Reference) and math.prod(state.shape(tensor)) > 1:
            own = block_at(state.layout(tensor), 0)
            block = state.join_blocks(block, own, f"{what} of channels that are not known")
    return block


@rule("aten._softmax", "aten._log_softmax", "aten._safe_softmax")
def softmax(operation: Operation, state: Propagation) -> None:
    """Over positions it changes nothing; over channels every one depends on all others, so they stay. In a reshaped block all that
    one softmax is taken over leaves together."""
    x: Reference = operation.argument("self")
    dimension = operation.argument("dim") % len(state.shape(x))
    layout = [state.collapse(block, (dimension,), "a softmax is taken over the channels") for block in state.layout(x)]
    state.set(operation, tuple(block for block in layout if block is not None))
