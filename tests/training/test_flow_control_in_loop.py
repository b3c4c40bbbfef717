"""The loop tells the flow when an epoch ends: strengths change, are written down, and survive a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowprune import models, plan
from flowprune.engine.measuring import dead_filters
from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.studies.phases import CutPhase, TrainPhase
from flowprune.studies.phases.training_phase import macs_left
from flowprune.studies.recipe import Recipe
from flowprune.training import TrainingSettings, load_data, train

EPOCHS = 6


def settings() -> TrainingSettings:
    return TrainingSettings.model_validate({"epochs": EPOCHS, "batch_size": 64, "lr": 0.1, "augmentation": None})


def small() -> nn.Module:
    torch.manual_seed(0)
    return models.create("resnet8", in_channels=1, width=8)


def trained(model: nn.Module, flow: FeatureFlow, **options: Any) -> list[dict[str, Any]]:
    data = load_data("digits", subset=200)
    return train(model, data, settings(), regularizer=flow, progress=False, **options).history


def test_a_schedule_rises_with_the_epochs_and_is_written_down(tmp_path: Path) -> None:
    model = small()
    history = trained(model, FeatureFlow(model, 0.01, schedule="linear", epochs=EPOCHS), run_folder=tmp_path)
    assert [epoch["strength"] for epoch in history] == [(number + 1) / EPOCHS for number in range(EPOCHS)]
    assert {epoch["dead_share"] for epoch in history} == {None}
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == history
    other = small()
    constant = trained(other, FeatureFlow(other, 0.01))
    assert [epoch["strength"] for epoch in constant] == [1.0] * EPOCHS
    assert history[0]["penalty"] < 0.3 * constant[0]["penalty"]


def test_without_a_penalty_nothing_is_known() -> None:
    data = load_data("digits", subset=64)
    (epoch,) = train(small(), data, settings().model_copy(update={"epochs": 1}), progress=False).history
    assert (epoch["strength"], epoch["dead_share"], epoch["macs_left"]) == (None, None, None)


class StopError(Exception):
    pass


class Stopping(FeatureFlow):
    """A flow that ends the training in the middle of its fifth epoch."""

    calls = 0

    def penalty(self, task_loss: Tensor | None = None, **given: Any) -> Tensor:
        self.calls += 1
        if self.calls == 4 * 4 + 2:
            raise StopError
        return super().penalty(task_loss, **given)


@pytest.mark.parametrize("options", [{"target_dead": 0.3}, {"schedule": "linear"}], ids=["target", "schedule"])
def test_a_stopped_training_goes_on_with_the_same_strength_to_the_same_weights(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    through, stopped, resumed = small(), small(), small()
    whole = FeatureFlow(through, "5%", epochs=EPOCHS, **options)
    expected = trained(through, whole)
    assert len({epoch["strength"] for epoch in expected}) > 2  # else the state would not matter
    with pytest.raises(StopError):
        trained(stopped, Stopping(stopped, "5%", epochs=EPOCHS, **options), run_folder=tmp_path)
    again = FeatureFlow(resumed, "5%", epochs=EPOCHS, **options)
    history = trained(resumed, again, run_folder=tmp_path, resume=True)
    timed = ("seconds", "images_per_second")
    for ours, theirs in zip(history, expected, strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    assert again.state_dict() == whole.state_dict()
    weights = through.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.state_dict().items())


def test_the_dead_share_is_that_of_the_epochs_end() -> None:
    model = small()
    history = trained(model, FeatureFlow(model, "50%", target_dead=0.5, epochs=EPOCHS))
    counted = dead_filters(model, torch.zeros(2, 1, 16, 16))
    assert history[-1]["dead_share"] == counted.dead / counted.filters


def test_macs_are_measured_by_whoever_gives_the_measure() -> None:
    model = small()
    with pytest.raises(ModelError, match="macs_left"):
        trained(model, FeatureFlow(model, target_macs=0.5, epochs=EPOCHS))
    model, seen = small(), iter([1.0, 1.0, 0.9, 0.4, 0.4, 0.4])
    flow = FeatureFlow(model, target_macs=0.5, epochs=EPOCHS)
    history = trained(model, flow, macs_left=lambda: next(seen))
    assert [epoch["macs_left"] for epoch in history] == [1.0, 1.0, 0.9, 0.4, 0.4, 0.4]
    assert [epoch["strength"] for epoch in history] == [1, 2, 3, 4, 2, 1]


@pytest.mark.parametrize("pruning", [None, {"budgets": [{"macs": 0.5}, {"threshold": 0.05}], "fold_tolerance": 0.5}])
def test_a_recipe_measures_what_its_own_cut_of_the_dead_would_leave(pruning: dict[str, Any] | None) -> None:
    sections = {"network": "resnet8", "data": {"name": "digits"}, "flow": {"target_macs": 0.5}, "pruning": pruning}
    recipe = Recipe.model_validate(sections)
    example = load_data("digits", subset=64).example_input()
    train, *cuts = recipe.phases_of("ffr")
    assert isinstance(train, TrainPhase)
    following = next((phase for phase in cuts if isinstance(phase, CutPhase)), None)
    model = small()
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.endswith("1"):
                module.weight[:3], module.bias[:3], module.weight[3], module.bias[3] = 0, 0, 0.03, 0
    assert macs_left(small(), example, following) == 1
    options = {"threshold": 0.01} if pruning is None else {"threshold": 0.05, "fold_tolerance": 0.5}
    before, after = plan(model, example, **options).macs
    assert macs_left(model, example, following) == after / before < 1
