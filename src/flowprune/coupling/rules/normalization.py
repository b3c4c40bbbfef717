"""Normalisations with statistics per channel."""

from __future__ import annotations

from flowprune.coupling.labels import Block, block_at
from flowprune.coupling.propagation import Propagation
from flowprune.coupling.rules import rule
from flowprune.tracing import Operation, Reference


@rule(
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_no_training",
    "aten._batch_norm_with_update",
    "aten._batch_norm_no_update",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
)
def batch_norm(operation: Operation, state: Propagation) -> None:
    """Join the input's channels with weight, bias, running mean and running variance; each channel is normalised by itself."""
    x: Reference = operation.argument("input")
    dimension = 1
    block = block_at(state.layout(x), dimension)
    if block is not None and len(block.dimensions) > 1:
        state.freeze(block.labels, "batch norm over a reshaped block")
        block = None
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = operation.argument(name)
        if isinstance(tensor, Reference):
            block = state.join_blocks(
                block, block_at(state.layout(tensor), 0), "batch norm of channels that are not known"
            )
    state.set(operation, tuple(b for b in state.layout(x) if dimension not in b.dimensions))
    if block is None:
        return
    channels = Block((dimension,), block.labels)
    state.set(operation, (*(b for b in state.layout(x) if dimension not in b.dimensions), channels))
    for position in range(1, len(operation.outputs)):
        if operation.outputs[position] is not None and state.output_shape(operation, position) == (len(block.labels),):
            state.set(operation, (Block((0,), block.labels),), position)
