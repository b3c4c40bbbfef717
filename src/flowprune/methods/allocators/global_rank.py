"""One ranking over all units."""

from __future__ import annotations

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.ranking import levels_by_ranking
from flowprune.methods.allocators.registry import REGISTRY


@REGISTRY.register("global_rank")
class GlobalRank:
    """What scores lowest leaves first, wherever it is.

    Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, arXiv 1506.02626, with one
    threshold for all layers. Units: tensors of weights, and classes of coupled groups.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Never above the target; of weights exactly at it. Raises ``UnreachableBudgetError`` where the limits forbid that."""
        return levels_by_ranking(problem, problem.scores)
