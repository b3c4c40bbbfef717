"""How much leaves where, by what each group was found to cost."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._distortion.coupled_costs import levels_of_coupled_units
from flowprune.methods.allocators._distortion.curves import Curve
from flowprune.studies.sensitivity.result import GroupSensitivity, Sensitivity

LEANING = 1e-3
"""What a whole group costs beside what was measured, in points: where nothing measured is lost, the smaller share leaves."""


class BySensitivity:
    """An allocator: the widths under which the losses that were measured group by group add up to the least.

    The sum over the groups is an assumption; test the result. The loss of a group is taken never to fall as more of it leaves, and
    lies between two measured shares on the line through both, above the last one on its continuation.

    Args:
        found: a scan of the very model that is cut.

    Example:
        >>> found = fp.sensitivity(model, inputs, evaluate)
        >>> small = fp.prune(model, inputs, importance=fp.importance.L2(), macs=0.5, allocator=BySensitivity(found))
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, found: Sensitivity) -> None:
        self.found = found

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Never above the target. Raises ``UnreachableBudgetError`` where the limits forbid that."""
        measured = {name: self._losses(row) for row in self.found.rows for name in row.groups}
        shares = np.linspace(0, 1, 11)
        # A class that the scan does not know, because a refused cut has made others, is as dear as the dearest.
        worst = np.max([np.interp(shares, *curve) for curve in measured.values()], axis=0) if measured else shares
        curves = []
        for name, size in zip(problem.units, problem.sizes.tolist(), strict=True):
            removed, losses = measured.get(name, (shares, worst))
            levels = np.unique(np.round(np.linspace(0, size, min(size, 40) + 1)).astype(np.int64))
            share = levels / max(size, 1)
            curves.append(Curve(levels, np.interp(share, removed, losses) + LEANING * share))
        return levels_of_coupled_units(problem, curves)

    def _losses(self, row: GroupSensitivity) -> tuple[np.ndarray, np.ndarray]:
        """Shares removed, from 0 to 1, and the accuracy each costs, never falling."""
        points = {
            point.removed / row.channels: self.found.accuracy - point.accuracy for point in row.points if point.removed
        }
        removed = np.array([0.0, *points])
        losses = np.maximum.accumulate([0.0, *points.values()])
        if removed[-1] < 1:
            slope = (losses[-1] - losses[-2]) / (removed[-1] - removed[-2]) if len(removed) > 1 else 0.0
            removed, losses = np.append(removed, 1.0), np.append(losses, losses[-1] + slope * (1 - removed[-1]))
        return removed, losses
