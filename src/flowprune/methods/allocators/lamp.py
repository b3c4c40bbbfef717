"""LAMP: layer-adaptive magnitude, one ranking over all layers that no layer can lose wholly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.ranking import levels_by_ranking
from flowprune.methods.allocators.registry import REGISTRY


def lamp_scores(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """``s_u = w_u^2 / sum_{v >= u} w_v^2`` of magnitudes in ascending order.

    Lee et al., Layer-Adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, arXiv 2010.07611, equation 4. The largest has
    the score 1, so a layer keeps its last weight as long as any. A tail of zeros scores 0, and what is infinite 1.

    Example:
        >>> lamp_scores(np.array([1.0, 2.0])).tolist()
        [0.2, 1.0]
    """
    finite = np.isfinite(magnitudes)
    largest = np.abs(magnitudes[finite]).max(initial=0.0)
    squares = np.square(np.where(finite, magnitudes, 0.0) / (largest or 1.0))
    rest = np.cumsum(squares[::-1])[::-1]
    scores = np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0)
    return np.maximum.accumulate(np.where(finite, scores, 1.0))


@REGISTRY.register("lamp")
class LAMP:
    """Global ranking by LAMP scores: each score's square over the sum of the squares that have not left before it.

    Lee et al., Layer-Adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, arXiv 2010.07611, equation 4. The paper's units
    are tensors and its scores magnitudes; there scores and layer-wise shares are compared with a public implementation. On classes
    of coupled groups the same formula stands over the scores of their steps, in the manner of LAMP.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Never above the target; of weights exactly at it. Raises ``UnreachableBudgetError`` where the limits forbid that."""
        return levels_by_ranking(problem, [lamp_scores(scores) for scores in problem.scores])
