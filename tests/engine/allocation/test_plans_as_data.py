"""A plan written down as JSON and read again cuts as the plan itself does."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from silenced_twin import largest_difference, randomized
from torch import nn

import flowprune as fp
from flowprune.engine.surgery import cut

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def model_with_constants() -> nn.Module:
    """Dead filters that say 0.3, so that what leaves has to be folded into what stays."""
    torch.manual_seed(0)
    model = randomized(fp.models.create("resnet8"), dead=0.3).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias[module.weight == 0] = 0.3
    return model


def test_a_plan_read_again_cuts_with_its_shifts() -> None:
    model = model_with_constants()
    made = fp.plan(model, IMAGES, threshold=0.01, fold_tolerance=10.0, branches="always")
    assert made.folds and made.branches and made.shifts
    again = fp.Plan.from_dict(json.loads(json.dumps(made.as_dict(), allow_nan=False)))
    assert again == made and again.shifts.keys() == made.shifts.keys()
    assert all(torch.equal(again.shifts[name], shift) for name, shift in made.shifts.items())
    small, other = cut(model, made).state_dict(), cut(model, again).state_dict()
    assert small.keys() == other.keys() and all(torch.equal(small[name], other[name]) for name in small)


def test_an_artifact_gives_the_plan_that_made_it(tmp_path: Path) -> None:
    model = model_with_constants()
    small = fp.prune(model, IMAGES, threshold=0.01, fold_tolerance=10.0).eval()
    fp.save(small, tmp_path / "small.fp")
    loaded = fp.load(tmp_path / "small.fp").eval()
    assert largest_difference(small(IMAGES), loaded(IMAGES)) == 0
    from flowprune.artifacts import read_header

    (made,) = read_header(tmp_path / "small.fp").cuts()
    assert made.shifts and largest_difference(fp.prune(model, made).eval()(IMAGES), small(IMAGES)) == 0


def test_a_plan_of_before_the_shifts_were_written_down_is_read_without_them() -> None:
    data = fp.plan(model_with_constants(), IMAGES, threshold=0.01, fold_tolerance=10.0).as_dict()
    assert data.pop("shifts") and data["format"] == 1
    assert fp.Plan.from_dict(data).shifts == {}
