"""The plan of several steps together says what one cut of the dense model would have to take."""

from __future__ import annotations

import torch
from silenced_twin import largest_difference, randomized

import flowprune.models as models
from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed
from flowprune.engine.measuring import measure
from flowprune.engine.steps.lineage import lineage_of
from flowprune.methods.importance import L2
from flowprune.pruning import prune, prune_iteratively

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_three_steps_are_one_plan_of_the_dense_model() -> None:
    model = randomized(models.create("resnet20")).double().eval()
    small = prune_iteratively(model, IMAGES.double(), steps=3, importance=L2(), macs=0.4)
    plan = composed([Plan.from_dict(made) for made in lineage_of(small).plans], "macs=0.4 in 3 steps")
    at_once = prune(model, plan).eval()
    assert largest_difference(at_once(IMAGES.double()), small(IMAGES.double())) < 1e-10
    found = measure(small, IMAGES.double())
    assert plan.macs == (measure(model, IMAGES.double()).macs, found.macs) and plan.params[1] == found.params
    assert at_once.layer2[0].shortcut.channels_before == small.layer2[0].shortcut.channels_before
    widths = {layer.layer: layer.channels for layer in plan.layers}
    assert widths["layer1.0.conv1"] == (16, small.layer1[0].conv1.out_channels)
    assert "asked: macs=0.4 in 3 steps" in str(plan)
