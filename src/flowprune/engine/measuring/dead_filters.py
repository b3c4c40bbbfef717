"""Dead filters: those whose output hardly varies, so that the network would not miss more than a constant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from flowprune.engine.measuring.filter_scales import filter_scales, is_dead, reference_scale

THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4)
"""The shares that are reported."""


@dataclass(frozen=True)
class DeadInLayer:
    """One convolution.

    Attributes:
        layer: its dotted path.
        filters: how many it has.
        dead: how many of them are dead at the main threshold.
        branch_end: whether it ends a residual branch: coupled removal cannot take its dead filters away.
        measured: False where only data could tell, and none was given: nothing of it counts as dead.
    """

    layer: str
    filters: int
    dead: int
    branch_end: bool
    measured: bool


@dataclass(frozen=True)
class DeadFilters:
    """Dead filters of a network.

    Attributes:
        filters: output channels of all its convolutions.
        dead: how many are dead at the main threshold, 1e-2.
        by_threshold: threshold -> how many are dead, for 1e-1, 1e-2, 1e-3 and 1e-4.
        reference: the network's 90th percentile of filter scales, which the thresholds are shares of.
        layers: one row for each convolution, in execution order.
    """

    filters: int
    dead: int
    by_threshold: Mapping[float, int]
    reference: float
    layers: tuple[DeadInLayer, ...]

    @property
    def dead_branch_ends(self) -> int:
        """How many of the dead filters end a residual branch."""
        return sum(row.dead for row in self.layers if row.branch_end)

    @property
    def dead_inside(self) -> int:
        """How many of the dead filters do not end a residual branch."""
        return self.dead - self.dead_branch_ends


def dead_filters(model: nn.Module, inputs: Any, batches: Iterable[Any] | None = None) -> DeadFilters:
    """Count the filters with ``s_c < t * (90th percentile of s over the network)``, or with s_c = 0.

    s_c is the deviation of what leaves the filter's batch norm, see ``filter_scales``. The reference is the whole
    network's: a layer's own would hide a layer that is dead as a whole. Only convolutions count as filters.

    Args:
        model: any eager model; it is not touched.
        inputs: example inputs for the trace.
        batches: inputs or (input, target) pairs, read once; only convolutions without a batch norm need them.

    Raises:
        ModelError, DataError: as ``filter_scales``.
    """
    scales = {
        layer: scale for layer, scale in filter_scales(model, inputs, batches).items() if layer.kind == "convolution"
    }
    reference = reference_scale(scales)
    dead = {layer: is_dead(scale, reference) for layer, scale in scales.items() if scale is not None}
    rows = tuple(
        DeadInLayer(
            layer=layer.name,
            filters=layer.filters,
            dead=int(dead[layer].sum()) if layer in dead else 0,
            branch_end=layer.branch_end,
            measured=layer in dead,
        )
        for layer in scales
    )
    by_threshold = {
        threshold: sum(int(is_dead(s, reference, threshold).sum()) for s in scales.values() if s is not None)
        for threshold in THRESHOLDS
    }
    return DeadFilters(sum(row.filters for row in rows), sum(row.dead for row in rows), by_threshold, reference, rows)
