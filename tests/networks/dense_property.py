"""The property of what is dead: under a threshold the pruned model is the dense model itself.

A filter whose gamma is exactly zero is an exact constant. With ``fold_tolerance=0`` it may leave only where that constant goes
into a bias exactly, whatever gates, lookups and further inputs stand between: the outputs are the dense model's. At the default
tolerance folds change outputs by design, and the reference is the twin, which has the plan's shifts added.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from random import Random

from silenced_twin import same_state, silenced_twin
from torch import nn
from twin_limits import undefined
from twin_property import LARGEST_DIFFERENCE, caught, distance, several_inputs

from flowprune.pruning import plan, prune

THRESHOLD = 0.01

NEAR = 0.25
"""Share of the architectures that are pruned at the default tolerance, too."""


@dataclass(frozen=True)
class DenseVerdict:
    """What became of one architecture's dead filters.

    Attributes:
        failure: what is wrong; None if nothing is.
        undefined: where the twin of the cut at the default tolerance is not defined; None where it is.
        difference: between the model pruned exactly and the dense one, as a share of the output's scale, the largest of all inputs.
        from_twin: between the model pruned at the default tolerance and its twin, likewise; None where that is not made.
        removed: filters that left exactly.
        folded: constants, not zero, that went elsewhere exactly.
    """

    failure: str | None = None
    undefined: str | None = None
    difference: float = 0.0
    from_twin: float | None = None
    removed: int = 0
    folded: int = 0


def dense_verdict(model: nn.Module, random: Random) -> DenseVerdict:
    """Remove what is dead, and compare. Never raises: what is raised is a failure."""
    found = caught(lambda: _dense_verdict(model, random))
    return found if isinstance(found, DenseVerdict) else DenseVerdict(found)


def _dense_verdict(model: nn.Module, random: Random) -> DenseVerdict:
    inputs = several_inputs(model, random)
    before = copy.deepcopy(model.state_dict())
    exact = plan(model, inputs[0], threshold=THRESHOLD, fold_tolerance=0)
    difference = distance(prune(model, exact).eval(), model, inputs)
    unsure, from_twin, failure = None, None, None
    if random.random() < NEAR:
        near = plan(model, inputs[0], threshold=THRESHOLD)
        twin = silenced_twin(model, near)
        unsure = undefined(model, twin, inputs)
        from_twin = distance(prune(model, near).eval(), twin, inputs)
    if not difference < LARGEST_DIFFERENCE:  # a NaN is one, too
        failure = f"without its dead filters it differs from the dense model by {difference:.1e}"
    elif unsure is None and from_twin is not None and not from_twin < LARGEST_DIFFERENCE:
        failure = f"without its dead filters it differs from its twin by {from_twin:.1e}"
    elif not same_state(before, model.state_dict()) or model.training:
        failure = "the source model was changed"
    folded = sum(fold.channels for fold in exact.folds)
    return DenseVerdict(failure, unsure, difference, from_twin, exact.filters_removed, folded)
