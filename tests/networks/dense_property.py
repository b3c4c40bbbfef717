"""The property of what is dead: under a threshold the pruned model is the dense model itself.

A filter whose gamma is exactly zero is an exact constant. With ``fold_tolerance=0`` it may leave only where that constant goes
into a bias exactly, whatever gates, lookups and further inputs stand between: the outputs are the dense model's. At the default
tolerance folds change outputs by design, and the reference is the twin, which has the plan's shifts added.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from silenced_twin import same_state, silenced_twin
from torch import nn
from twin_limits import undefined
from twin_property import LARGEST_DIFFERENCE, caught, distance, several_inputs

from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import tensors_of
from flowprune.pruning import plan, prune

THRESHOLD = 0.01

NEAR = 0.25
"""Share of the architectures that are pruned at the default tolerance, too."""
MASKED = 0.5
"""Share of the architectures from which weights are masked, too."""


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
        masked: filters that left exactly once weights of whole filters, or all that read a channel, were zero; None where nothing
            was masked.
    """

    failure: str | None = None
    undefined: str | None = None
    difference: float = 0.0
    from_twin: float | None = None
    removed: int = 0
    folded: int = 0
    masked: int | None = None


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
    masked = None
    if random.random() < MASKED:
        bare = masked_in_places(model, inputs[0], random)
        cut = plan(bare, inputs[0], threshold=THRESHOLD, fold_tolerance=0)
        masked, further = cut.filters_removed, distance(prune(bare, cut).eval(), bare, inputs)
        difference = max(difference, further)
        if failure is None and not further < LARGEST_DIFFERENCE:
            failure = f"without what its masks leave nothing of it differs from the masked model by {further:.1e}"
    return DenseVerdict(failure, unsure, difference, from_twin, exact.filters_removed, folded, masked)


def masked_in_places(model: nn.Module, inputs: Any, random: Random) -> nn.Module:
    """A copy; of about every second group of channels a few have lost all weights that make them, or all that read them."""
    bare = copy.deepcopy(model)
    tensors = tensors_of(bare)
    with torch.no_grad():
        for group in CoupledModel.of(bare, inputs).coupling.groups:
            role = random.choice(["input", "output", None])
            rows = [channel for channel in range(group.channels) if random.random() < 0.2]
            members = [member for member in group.members if member.role == role and member.name in tensors]
            if not rows or random.random() < 0.1:  # now and then one that makes them, or reads them, stays
                members = members[1:]
            for member in members:
                places = torch.from_numpy(member.indices)[rows].flatten()
                tensors[member.name].movedim(member.dimension, 0)[places] = 0
    return bare
