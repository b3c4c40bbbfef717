"""Steps that come back because the target has room for them."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import AllocationProblem, Levels


def give_back(problem: AllocationProblem, levels: Levels, gain: Callable[[int, Levels], float]) -> Levels:
    """Levels to which no unit can be given a step back without leaving more than the target.

    Args:
        problem: the units.
        levels: allowed, and within the target.
        gain: what giving this unit a step back is worth at such levels; the most worth is tried first.
    """
    levels = levels.copy()
    open_units = [unit for unit in range(len(levels)) if levels[unit] >= problem.steps[unit]]
    while open_units:
        unit = max(open_units, key=lambda unit: (gain(unit, levels), -unit))
        levels[unit] -= problem.steps[unit]
        if problem.count(levels) > problem.target:
            levels[unit] += problem.steps[unit]
            open_units.remove(unit)  # counts only grow by giving back, so it will not fit later either
        elif levels[unit] < problem.steps[unit]:
            open_units.remove(unit)
    return levels
