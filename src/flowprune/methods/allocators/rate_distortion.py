"""Rate-distortion allocation: the levels at which the outputs move least."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.errors import FlowpruneError
from flowprune.methods.allocators._distortion.additive_costs import least_distortion
from flowprune.methods.allocators._distortion.coupled_costs import levels_of_coupled_units
from flowprune.methods.allocators._distortion.curves import Over, distortion_curves
from flowprune.methods.allocators._levels.unreachable import unreachable
from flowprune.methods.allocators.registry import REGISTRY


@REGISTRY.register("rate_distortion")
class RateDistortion:
    """``min sum_l delta_l(a_l)`` under a budget, where ``delta_l(a)`` is how far the outputs move if l alone loses a.

    Xu et al., Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks, ICCV 2023, arXiv 2308.10438.
    Needs data: yes. Labels: no. Gradients: no.

    Weights of tensors: dynamic programming over what is left, exact on the grid (``least_distortion`` says up to which size), and
    never above the target. The authors' code takes the nearest count for its smallest layer, may exceed the budget, crashes where a
    layer is larger than the budget, and is not optimal in half of the cases that were compared; tests hold that ours distorts at
    most as much at the weights that theirs keeps. The curves agree with theirs.

    Classes of coupled groups under MACs or parameters: curves are measured on real cuts (theirs are of single weights throughout),
    costs are marginal, and a repair counts exactly (``levels_of_coupled_units``): never above, and less than the smallest step
    below. On networks of three classes a test compares it with all cuts there are.

    The sum over units is an assumption of the paper (outputs are nearly linear in small changes), not a bound. Time: a forward over
    all batches for each of ``points`` levels of each unit.

    Args:
        batches: calibration batches (inputs, (input, target) pairs or dictionaries); read once and kept. The paper has 1,024 images
            of CIFAR-10, or 256 of ImageNet.
        points: steps of the grid of shares; the paper's 100.
        over: the "mean" over the samples, or the "worst" of them.

    Raises:
        FlowpruneError: ``points`` or ``over`` is none of these.

    Example:
        ``levels = RateDistortion(batches)(weight_problem(model, WeightMagnitude()(model), Weight(), weights=0.5))``
    """

    needs_data: ClassVar[bool] = True

    def __init__(self, batches: Iterable[Any], *, points: int = 100, over: Over = "mean") -> None:
        if isinstance(points, bool) or not isinstance(points, int) or points < 1:
            raise FlowpruneError(f"points={points!r} is not a number of steps: use a whole number such as 100")
        if over not in ("mean", "worst"):
            raise FlowpruneError(f'over={over!r} is not known; use "mean" or "worst"')
        self.batches, self.points, self.over = batches, points, over

    def __call__(self, problem: AllocationProblem) -> Levels:
        """The levels.

        Raises:
            UnreachableBudgetError: the limits hold more than the target.
            DataError, ModelError: as ``distortion_curves``.
        """
        batches = self.batches = list(self.batches) if not isinstance(self.batches, list) else self.batches
        curves = problem.kept.get(self)
        if curves is None:
            curves = problem.kept[self] = distortion_curves(problem, batches, points=self.points, over=self.over)
        if problem.costs is None:
            return levels_of_coupled_units(problem, curves)
        left = [
            cost * (size - curve.levels) for cost, size, curve in zip(problem.costs, problem.sizes, curves, strict=True)
        ]
        nothing = np.zeros(len(curves), dtype=np.int64)
        besides = problem.count(nothing) - int(problem.costs @ problem.sizes)
        chosen = least_distortion(left, [curve.distortions for curve in curves], problem.target - besides)
        if chosen is None:
            raise unreachable(problem, problem.count(problem.limits))
        return np.array([curve.levels[option] for curve, option in zip(curves, chosen, strict=True)], dtype=np.int64)
