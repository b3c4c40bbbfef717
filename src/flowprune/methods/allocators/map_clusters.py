"""As many channels of a layer as it has different feature maps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.errors import FlowpruneError
from flowprune.methods.allocators._clusters.average_maps import average_maps, makers_of_units
from flowprune.methods.allocators._clusters.different_maps import Distances, different_maps, map_distances
from flowprune.methods.allocators._levels.proportions import levels_in_proportion
from flowprune.methods.allocators.registry import REGISTRY


@REGISTRY.register("map_clusters")
class MapClusters:
    """A layer keeps as many channels as DBSCAN finds clusters of its average feature maps, and maps that are in none.

    The first step of Chang et al., Automatic Channel Pruning via Clustering and Swarm Intelligence Optimization (ACP), Applied
    Intelligence 2022, arXiv 2101.06407: ``x_c`` is the raw output of filter c, averaged over images; two are neighbours where
    ``1 - cos(x_a, x_b) <= eps``. Needs data: yes, training images (the authors' code looks at test images). Labels: no.

    Without a budget, as in the paper, eps says how small the network becomes (0.007 in the authors' code); here it is found for the
    budget, by bisection, as the counts never grow with it. A given eps says the proportions of the widths, and the budget their
    size. A class of coupled channels that several layers make keeps the mean of these layers' shares. Linear layers have tokens in
    place of the places of a map, or images where there are none; a class that neither a convolution nor a linear layer makes (the
    projections within torch's own attention) keeps the mean share of the others. Grouped and depthwise convolutions are layers like
    any other.

    Args:
        batches: calibration batches; read once and kept. The paper has 200 images.
        eps: up to which distance two maps are neighbours; found for the budget if None.
        least: how many neighbours, itself among them, make a map the core of a cluster; a layer of fewer channels has no cluster.

    Raises:
        FlowpruneError: ``eps`` or ``least`` is none of these.

    Example:
        ``fp.prune(model, inputs, macs=0.5, importance=fp.importance.L1(), allocator=MapClusters(batches))``
    """

    needs_data: ClassVar[bool] = True

    def __init__(self, batches: Iterable[Any], *, eps: float | None = None, least: int = 5) -> None:
        if eps is not None and (isinstance(eps, bool) or not 0 < eps <= 2):
            raise FlowpruneError(f"eps={eps!r} is no distance of two maps; use a number up to 2 such as 0.007")
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise FlowpruneError(f"least={least!r} is no number of neighbours; use a whole number such as 5")
        self.batches, self.eps, self.least = batches, eps, least

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Never above the target. Raises as ``widths``, and ``UnreachableBudgetError`` where the limits forbid that."""
        return levels_in_proportion(problem, self.widths(problem))

    def widths(self, problem: AllocationProblem) -> NDArray[np.float64]:
        """[units]: what each keeps, by its maps; under an eps that was not given close to the target, not always below it.

        Raises:
            BudgetError: the units are tensors of weights.
            DataError: there is no batch.
            ModelError: feature maps are NaN or infinite.
        """
        batches = self.batches = list(self.batches) if not isinstance(self.batches, list) else self.batches
        dense = problem.probe(np.zeros(len(problem.units), dtype=np.int64))
        makers = makers_of_units(problem, dense)
        maps = average_maps(dense, {name for names in makers for name in names}, batches)
        distances = [[map_distances(maps[name]) for name in names if name in maps] for names in makers]
        if self.eps is not None:
            return self._at(self.eps, problem, distances)
        # The counts change where eps is one of the distances, so these are tried, and one below all of them.
        apart = [one[one > 0] for layers in distances for one in layers]
        tried = np.unique(np.concatenate([*apart, [2.0]]))
        tried = np.concatenate([tried[:1] / 2, tried])

        def fits(eps: float) -> bool:
            kept = np.floor(self._at(eps, problem, distances)).astype(np.int64)
            lost = problem.rounding(np.minimum(problem.sizes - kept, problem.limits))
            return problem.count(np.minimum(lost, problem.limits)) <= problem.target

        first = bisect_left(tried, True, hi=len(tried) - 1, key=fits)
        return self._at(float(tried[first]), problem, distances)

    def _at(
        self, eps: float, problem: AllocationProblem, distances: Sequence[Sequence[Distances]]
    ) -> NDArray[np.float64]:
        shares = [[different_maps(one, eps, self.least) / len(one) for one in layers] for layers in distances]
        known = [float(np.mean(some)) for some in shares if some]
        others = float(np.mean(known)) if known else 1.0
        kept = np.array([float(np.mean(some)) if some else others for some in shares], dtype=np.float64)
        return np.asarray(np.maximum(problem.sizes * kept, 1.0))
