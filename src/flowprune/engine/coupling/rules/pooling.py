"""Pooling and resizing: every channel by itself, over positions."""

from __future__ import annotations

from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference


def _over_positions(operation: Operation, state: Propagation, spatial: int) -> None:
    x: Reference = operation.argument(operation.function._schema.arguments[0].name)
    first = len(state.shape(x)) - spatial
    layout = []
    for block in state.layout(x):
        if block.dimensions[-1] >= first:
            state.freeze(block.labels, f"{operation.name} runs over this dimension")
        else:
            layout.append(block)
    for position in range(len(operation.outputs)):
        state.set(operation, tuple(layout), position)


@rule(
    "aten.max_pool1d",
    "aten.avg_pool1d",
    "aten.adaptive_avg_pool1d",
    "aten.adaptive_max_pool1d",
    "aten.upsample_nearest1d",
    "aten.upsample_linear1d",
)
def pooling_1d(operation: Operation, state: Propagation) -> None:
    """The last dimension is pooled, the others stay."""
    _over_positions(operation, state, 1)


@rule(
    "aten.max_pool2d",
    "aten.max_pool2d_with_indices",
    "aten.avg_pool2d",
    "aten.adaptive_avg_pool2d",
    "aten._adaptive_avg_pool2d",
    "aten.adaptive_max_pool2d",
    "aten.upsample_nearest2d",
    "aten._upsample_nearest_exact2d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten.reflection_pad2d",
    "aten.replication_pad2d",
)
def pooling_2d(operation: Operation, state: Propagation) -> None:
    """The last two dimensions are pooled, the others stay."""
    _over_positions(operation, state, 2)


@rule(
    "aten.max_pool3d_with_indices",
    "aten.avg_pool3d",
    "aten._adaptive_avg_pool3d",
    "aten.upsample_nearest3d",
    "aten.upsample_trilinear3d",
)
def pooling_3d(operation: Operation, state: Propagation) -> None:
    """The last three dimensions are pooled, the others stay."""
    _over_positions(operation, state, 3)
