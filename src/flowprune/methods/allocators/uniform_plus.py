"""Uniform+ densities."""

from __future__ import annotations

import numpy as np

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators._levels.densities import levels_of_densities, proportional_densities, shapes_of
from flowprune.methods.allocators.registry import REGISTRY

LEAST_OF_LAST = 0.2
"""What the last linear layer keeps at least."""


@REGISTRY.register("uniform_plus")
class UniformPlus:
    """The same density everywhere, but the first convolution stays whole and the last linear layer keeps a fifth at least.

    Gale et al., The State of Sparsity in Deep Neural Networks, 2019, arXiv 1902.09574, section 5.2; compared with a public
    implementation. Units: tensors of weights, in the model's order: the first of more than two dimensions, the last of two.

    Raises (when called):
        BudgetError: the units are no tensors.
        UnreachableBudgetError: the first convolution and that fifth are more than the target.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Exactly at the target."""
        shapes = shapes_of(problem, "uniform_plus")
        least = np.zeros(len(shapes))
        linear = [number for number, shape in enumerate(shapes) if len(shape) == 2]
        convolutions = [number for number, shape in enumerate(shapes) if len(shape) > 2]
        least[linear[-1:]] = LEAST_OF_LAST
        least[convolutions[:1]] = 1.0
        densities = proportional_densities([1.0] * len(shapes), problem.sizes.tolist(), problem.target, least.tolist())
        return levels_of_densities(problem, densities, least)
