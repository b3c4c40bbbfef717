"""One threshold for the whole network, relative to each unit's highest score, found for the budget by bisection."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.errors import FlowpruneError
from flowprune.methods.allocators._levels.giving_back import give_back
from flowprune.methods.allocators._levels.unreachable import unreachable
from flowprune.methods.allocators.registry import REGISTRY


@REGISTRY.register("relative_threshold")
class RelativeThreshold:
    """A step is taken where its score is at most t times its unit's highest; at least so many of each unit are kept.

    What Zhao et al., Dependency Aware Filter Pruning, arXiv 2005.02634, prune by, with at least 8 channels of every layer kept. t
    is bisected to the budget, and what still fits is given back.

    Args:
        least: what every unit keeps; one that has no more keeps all.

    Raises:
        FlowpruneError: ``least`` is no number.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, *, least: int = 8) -> None:
        if isinstance(least, bool) or not isinstance(least, int) or least < 0:
            raise FlowpruneError(f"least={least!r} is no number of channels; use a whole number of at least 0")
        self.least = least

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Never above the target. Raises ``UnreachableBudgetError`` where what is kept at least is more."""
        limits = np.minimum(problem.limits, np.maximum(problem.sizes - self.least, 0))
        highest = [max(float(scores[-1]), 0.0) if len(scores) else 0.0 for scores in problem.scores]

        def levels_at(threshold: float) -> Levels:
            below = [
                int(np.searchsorted(scores, threshold * most, side="right"))
                for scores, most in zip(problem.scores, highest, strict=True)
            ]
            return np.minimum(problem.rounding(np.minimum(np.array(below, dtype=np.int64), limits)), limits)

        smallest = problem.count(levels_at(1.0))
        if smallest > problem.target:
            raise unreachable(problem, smallest, f"relative_threshold with least={self.least} can leave")
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            if problem.count(levels_at(middle)) <= problem.target:
                high = middle
            else:
                low = middle
        scores = problem.scores
        return give_back(
            problem,
            levels_at(high),
            lambda unit, levels: float(scores[unit][levels[unit] - 1]) / (highest[unit] or 1.0),
        )
