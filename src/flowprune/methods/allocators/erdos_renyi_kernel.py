"""Erdos-Renyi-Kernel densities."""

from __future__ import annotations

import math

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.densities import levels_of_densities, proportional_densities, shapes_of
from flowprune.methods.allocators.registry import REGISTRY


@REGISTRY.register("erdos_renyi_kernel")
class ErdosRenyiKernel:
    """The density of a layer is proportional to the sum of its dimensions over their product, ``(F + C + K + K) / (F C K K)``.

    Evci et al., Rigging the Lottery, ICML 2020, arXiv 1911.11134, section 3 (ERK): a layer that would have to be denser than 1
    stays whole, and the others share the rest. Of a linear layer it is ``(F + C) / (F C)``; C of a grouped or depthwise
    convolution is what one filter reads. Densities are compared with a public implementation. Units: tensors of weights.

    Raises (when called):
        BudgetError: the units are no tensors.
        UnreachableBudgetError: the limits hold more than the target.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Exactly at the target."""
        shapes = shapes_of(problem, "erdos_renyi_kernel")
        proportions = [sum(shape) / math.prod(shape) for shape in shapes]
        densities = proportional_densities(proportions, problem.sizes.tolist(), problem.target)
        return levels_of_densities(problem, densities, np.zeros(len(shapes)))
