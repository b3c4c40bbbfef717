"""Widths in given proportions, as wide as the target has room for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.giving_back import give_back
from flowprune.methods.allocators._levels.unreachable import unreachable

_HALVINGS = 40


def levels_in_proportion(problem: AllocationProblem, widths: NDArray[np.float64]) -> Levels:
    """Each unit keeps ``min(size, t w)`` steps, rounded down, for the largest t that meets the target; then what fits comes back.

    Args:
        problem: the units.
        widths: [units], positive: what each keeps, but for the one factor.

    Raises:
        UnreachableBudgetError: all the steps that the limits allow leave more than the target.
    """
    sizes = problem.sizes

    def at(factor: float) -> Levels:
        kept = np.minimum(np.floor(widths * factor + 1e-9), sizes).astype(np.int64)
        return np.minimum(problem.rounding(np.minimum(sizes - kept, problem.limits)), problem.limits)

    smallest = problem.count(at(0.0))
    if smallest > problem.target:
        raise unreachable(problem, smallest)
    low, high = 0.0, float(np.max(sizes / widths)) if len(sizes) else 0.0
    if problem.count(at(high)) <= problem.target:
        return at(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if problem.count(at(middle)) <= problem.target:
            low = middle
        else:
            high = middle
    return give_back(problem, at(low), lambda unit, levels: float(problem.scores[unit][levels[unit] - 1]))
