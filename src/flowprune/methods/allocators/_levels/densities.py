"""Densities in given proportions, between a least one and 1, that keep a given number of weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.errors import BudgetError
from flowprune.methods.allocators._levels.unreachable import unreachable

Density = NDArray[np.float64]


def proportional_densities(
    proportions: Sequence[float], sizes: Sequence[int], kept: float, least: Sequence[float] | None = None
) -> Density | None:
    """d_l = min(1, max(least_l, e p_l)) with the e under which ``sum d_l n_l = kept``; None where even the least keep more.

    The sum grows with e by straight pieces, whose ends are where a density meets 1 or leaves its least; between the two ends
    around ``kept`` e is computed.

    Example:
        >>> proportional_densities([1.0, 1.0], [10, 30], kept=20, least=[1.0, 0.0]).round(3).tolist()
        [1.0, 0.333]
    """
    rates, counts = np.asarray(proportions, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    floor = np.zeros(len(rates)) if least is None else np.asarray(least, dtype=np.float64)

    def at(scale: float) -> Density:
        return np.minimum(1.0, np.maximum(floor, scale * rates))

    if at(0.0) @ counts > kept + 1e-9:
        return None
    ends = np.unique(np.concatenate([[0.0], floor / rates, 1.0 / rates]))
    sums = np.array([at(end) @ counts for end in ends])
    if kept >= sums[-1]:
        return at(float(ends[-1]))
    after = int(np.searchsorted(sums, kept, side="right"))
    low, high = after - 1, after
    share = (kept - sums[low]) / (sums[high] - sums[low])
    return at(float(ends[low] + share * (ends[high] - ends[low])))


def shapes_of(problem: AllocationProblem, allocator: str) -> tuple[tuple[int, ...], ...]:
    """The shapes of the units.

    Raises:
        BudgetError: they are no tensors.
    """
    if problem.shapes is None or problem.costs is None:
        raise BudgetError(
            f"{allocator} shares out the weights of tensors, and {problem.units[0] if problem.units else 'nothing'} is a group of "
            "channels; use global_rank, uniform, lamp or rate_distortion there"
        )
    return problem.shapes


def levels_of_densities(problem: AllocationProblem, densities: Density | None, least: Density) -> Levels:
    """Whole numbers of weights: the densities rounded down, and what is over to the largest remainders.

    Raises:
        UnreachableBudgetError: there are no such densities, or a limit holds more than its density.
    """
    sizes = problem.sizes
    if densities is None:
        raise unreachable(problem, int(np.ceil(least * sizes - 1e-9).sum()), "these densities allow")
    wanted = densities * sizes
    kept = np.floor(wanted + 1e-9).astype(np.int64)
    over = min(problem.target, int(sizes.sum())) - int(kept.sum())
    order = np.lexsort((np.arange(len(sizes)), -(wanted - kept)))
    for unit in order:
        if over > 0 and kept[unit] < sizes[unit]:
            kept[unit] += 1
            over -= 1
    levels = np.asarray(sizes - kept, dtype=np.int64)
    held = np.minimum(levels, problem.limits)
    if problem.count(held) > problem.target:
        raise unreachable(problem, problem.count(problem.limits))
    return held
