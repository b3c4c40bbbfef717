"""Pooling and resizing: every channel by itself, over positions."""

from __future__ import annotations

import re

from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation, Reference

_NAMES = """
max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d
max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d reflection_pad2d replication_pad2d
max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d upsample_nearest3d upsample_trilinear3d
"""


@rule(*(f"aten.{name}" for name in _NAMES.split()))
def pooling(operation: Operation, state: Propagation) -> None:
    """As many of the last dimensions are pooled as the operator's name says; the others stay."""
    x: Reference = operation.argument(operation.function._schema.arguments[0].name)
    pooled = re.findall(r"(\d)d", operation.name)
    first = len(state.shape(x)) - int(pooled[0])
    layout = []
    for block in state.layout(x):
        if block.dimensions[-1] >= first:
            state.freeze(block.labels, f"{operation.name} runs over this dimension")
        else:
            layout.append(block)
    for position in range(len(operation.outputs)):
        state.set(operation, tuple(layout), position)
