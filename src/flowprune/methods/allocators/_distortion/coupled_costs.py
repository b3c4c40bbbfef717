"""Levels of little distortion where costs do not add: marginal costs, a repair by exact counts, and single exchanges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._distortion.additive_costs import least_distortion
from flowprune.methods.allocators._distortion.curves import Curve, total_distortion
from flowprune.methods.allocators._levels.giving_back import give_back
from flowprune.methods.allocators._levels.unreachable import unreachable

ROUNDS = 8
"""How often the costs are taken anew around the levels found."""

FEW_UNITS = 8
"""With no more of them every level is tried in an exchange."""


def levels_of_coupled_units(problem: AllocationProblem, curves: Sequence[Curve]) -> Levels:
    """Never above the target; ``total_distortion`` near the least there is.

    What a unit costs depends on the others' levels (the MACs of a layer are a product of both of its widths), so the costs are
    those that each of its levels would have with the others as they are. The choice of ``least_distortion`` under these costs is
    repaired by exact counts, becomes the next point to take the costs at, and so on; the best of all repaired ones is then improved
    by exchanges, until none helps.

    Raises:
        UnreachableBudgetError: all that the limits allow leaves more than the target.
    """
    return _Search(problem, curves).run()


class _Search:
    """Allowed levels within the target, by the curves' grid, then by single steps."""

    def __init__(self, problem: AllocationProblem, curves: Sequence[Curve]) -> None:
        self.problem, self.curves = problem, curves

    def run(self) -> Levels:
        problem = self.problem
        deepest = problem.rounding(problem.limits.copy())
        if problem.count(deepest) > problem.target:
            raise unreachable(problem, problem.count(deepest))
        current = self.repaired(np.zeros(len(problem.units), dtype=np.int64))
        found = [current]
        for _ in range(ROUNDS):
            chosen = self.linearised(current)
            if chosen is None:
                break
            current = self.repaired(chosen)
            if any(np.array_equal(current, other) for other in found):
                break
            found.append(current)
        return self.exchanged(min(found, key=self.distortion))

    def distortion(self, levels: Levels) -> float:
        """The sum of the curves."""
        return total_distortion(self.curves, levels)

    def linearised(self, current: Levels) -> Levels | None:
        """The best choice on the grid, if costs were what they are around ``current``."""
        base = self.problem.count(current)
        left = []
        for unit, curve in enumerate(self.curves):
            counts = []
            for level in curve.levels:
                other = current.copy()
                other[unit] = level
                counts.append(self.problem.count(other) - base)
            left.append(np.array(counts, dtype=np.int64))
        chosen = least_distortion(left, [curve.distortions for curve in self.curves], self.problem.target - base)
        if chosen is None:
            return None
        levels = [curve.levels[option] for curve, option in zip(self.curves, chosen, strict=True)]
        return np.array(levels, dtype=np.int64)

    def repaired(self, levels: Levels) -> Levels:
        """Allowed levels within the target: steps along the grid that distort least for what they save, then what fits back."""
        problem = self.problem
        levels = problem.rounding(levels)
        left = problem.count(levels)
        while left > problem.target:
            deeper = [(self.price(levels, unit, left), unit) for unit in range(len(levels))]
            price, unit = min(deeper)
            if price == np.inf:
                return self.from_below(problem.rounding(problem.limits.copy()))
            levels = self.next_level(levels, unit)
            left = problem.count(levels)
        return self.from_below(levels)

    def price(self, levels: Levels, unit: int, left: int) -> float:
        """What one grid step further adds to the distortion, for each that it saves; inf where there is none."""
        deeper = self.next_level(levels, unit)
        saved = left - self.problem.count(deeper)
        changed = [(self.curves[u], int(levels[u]), int(deeper[u])) for u in np.flatnonzero(deeper != levels).tolist()]
        added = sum(curve.at(after) - curve.at(before) for curve, before, after in changed)
        return added / saved if saved > 0 else np.inf

    def next_level(self, levels: Levels, unit: int) -> Levels:
        """The unit at its next level of the grid, the others as they are (as far as that is allowed)."""
        grid = self.curves[unit].levels
        further = grid[grid > levels[unit]]
        moved = levels.copy()
        if len(further):
            moved[unit] = further[0]
        return self.problem.rounding(moved)

    def from_below(self, levels: Levels) -> Levels:
        """Single steps come back, those that lessen the distortion most first."""
        return give_back(self.problem, levels, self.gain)

    def gain(self, unit: int, levels: Levels) -> float:
        """By how much the distortion falls if the unit gets a step back."""
        level, step = int(levels[unit]), int(self.problem.steps[unit])
        return self.curves[unit].at(level) - self.curves[unit].at(level - step)

    def exchanged(self, levels: Levels) -> Levels:
        """One unit goes to another level, and the rest is repaired or one other unit makes up for it, as long as that lessens the
        distortion."""
        best, reached = levels, self.distortion(levels)
        improved = True
        while improved:
            improved = False
            for unit in range(len(best)):
                for level in self.others(unit, int(best[unit])):
                    moved = best.copy()
                    moved[unit] = level
                    for candidate in self.ways(moved, unit, reached):
                        distortion = self.distortion(candidate)
                        if distortion < reached * (1 - 1e-12):
                            best, reached, improved = candidate, distortion, True
        return best

    def ways(self, moved: Levels, unit: int, below: float) -> Iterator[Levels]:
        """Allowed levels within the target that have the unit where it was moved to, or near it."""
        yield self.repaired(moved)
        if not np.array_equal(self.problem.rounding(moved), moved):
            return
        without = self.distortion(moved)
        for other in range(len(moved)):
            level = self.least_that_fits(moved, other) if other != unit else None
            if level is not None:
                made_up = without + self.curves[other].at(level) - self.curves[other].at(int(moved[other]))
                if made_up < below:
                    candidate = moved.copy()
                    candidate[other] = level
                    if np.array_equal(self.problem.rounding(candidate), candidate):
                        yield self.from_below(candidate)

    def least_that_fits(self, levels: Levels, unit: int) -> int | None:
        """The least level of a unit, in its steps, that meets the target with the others as they are."""
        step, now = int(self.problem.steps[unit]), int(levels[unit])
        low, high = now % step, (int(self.problem.limits[unit]) - now) // step * step + now
        tried = levels.copy()

        def fits(level: int) -> bool:
            tried[unit] = level
            return self.problem.count(tried) <= self.problem.target

        if not fits(high):
            return None
        while low < high:
            middle = low + (high - low) // step // 2 * step
            if fits(middle):
                high = middle
            else:
                low = middle + step
        return high

    def others(self, unit: int, level: int) -> list[int]:
        """Levels that a unit may go to: all of the grid where units are few, else up to three on each side."""
        grid = self.curves[unit].levels
        few = len(self.curves) <= FEW_UNITS
        below, above = grid[grid < level], grid[grid > level]
        return [*(below if few else below[-3:]).tolist(), *(above if few else above[:3]).tolist()]
