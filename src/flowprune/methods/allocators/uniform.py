"""The same share of every unit."""

from __future__ import annotations

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.ranking import levels_by_ranking
from flowprune.methods.allocators.registry import REGISTRY


@REGISTRY.register("uniform")
class Uniform:
    """Every tensor, or class of coupled groups, loses the same share, as nearly as whole steps allow.

    Zhu & Gupta, To prune, or not to prune, ICLR workshop 2018, arXiv 1710.01878.

    Example:
        A layer of 10 and one of 30 weights of which 20 are kept lose 5 and 15.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Never above the target; of weights exactly at it. Raises ``UnreachableBudgetError`` where the limits forbid that."""
        return levels_by_ranking(problem, [(np.arange(size) + 0.5) / max(size, 1) for size in problem.sizes])
