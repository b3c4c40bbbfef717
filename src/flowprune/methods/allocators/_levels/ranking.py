"""The steps of all units in one order, and how far down it the target is met."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.giving_back import give_back
from flowprune.methods.allocators._levels.unreachable import unreachable


def levels_by_ranking(problem: AllocationProblem, keys: Sequence[NDArray[np.float64]]) -> Levels:
    """The shortest beginning of the order that meets the target, less what fits back in.

    Args:
        problem: the units.
        keys: for each unit, [steps] ascending: the lower, the sooner the step is taken. Of equal keys the earlier unit's leaves
            first.

    Raises:
        UnreachableBudgetError: all the steps that the limits allow leave more than the target.
    """
    units = len(problem.units)
    allowed = [key[: int(limit)] for key, limit in zip(keys, problem.limits, strict=True)]
    owners = np.repeat(np.arange(units), problem.limits)
    places = np.concatenate([np.arange(len(key)) for key in allowed] or [np.empty(0, dtype=np.int64)])
    sequence = owners[np.lexsort((places, owners, np.concatenate(allowed or [np.empty(0)])))]

    def after(prefix: int) -> Levels:
        return problem.rounding(np.bincount(sequence[:prefix], minlength=units).astype(np.int64))

    smallest = problem.count(after(len(sequence)))
    if smallest > problem.target:
        raise unreachable(problem, smallest)
    low, high = 0, len(sequence)
    while low < high:
        middle = (low + high) // 2
        if problem.count(after(middle)) <= problem.target:
            high = middle
        else:
            low = middle + 1
    return give_back(problem, after(high), lambda unit, levels: float(keys[unit][levels[unit] - 1]))
