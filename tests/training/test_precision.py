"""Which precision a training takes: that of its settings, else what the clock says, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn

import flowprune.training.precision as precision
from flowprune import models
from flowprune.errors import ArtifactError, OutputError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.studies.pipeline.chosen_precision import as_begun
from flowprune.studies.pipeline.run import run
from flowprune.studies.pipeline.run_folder import RunFolder
from flowprune.studies.recipe import Recipe, load_recipe
from flowprune.training import Data, TrainingSettings, load_data, train

Processor = Callable[..., None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    """Makes the steps that are measured last as long as on some processor: seconds a step, by precision."""

    def made(float32: float, bfloat16: float, worth_measuring: float = 0.0) -> None:
        seconds = {False: float32, True: bfloat16}
        monkeypatch.setattr(precision, "_step", lambda model, images, targets, half: seconds[half])
        monkeypatch.setattr(precision, "MEASURED_SECONDS", 0.01)
        monkeypatch.setattr(precision, "WORTH_MEASURING", worth_measuring)

    return made


@pytest.fixture
def digits() -> Data:
    return load_data("digits", subset=96)


def small() -> nn.Module:
    torch.manual_seed(0)
    return models.create("resnet8", in_channels=1, width=8)


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"epochs": 3, "batch_size": 32, "augmentation": {"crop": 1}, **changes})


def chosen(data: Data, epochs: int = 10) -> str:
    return precision.measured_precision(Accelerator(), [small()], data, batch_size=32, epochs=epochs).precision


def test_a_measurement_leaves_model_flow_and_chance_as_they_were(digits: Data) -> None:
    model = nn.Sequential(nn.Dropout(0.5), small()).eval()
    flow = FeatureFlow(model, "5%")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known, state = flow.state_dict(), torch.get_rng_state()
    ((images, targets),) = digits.batches(batch_size=12, count=1)
    found = precision.seconds_an_image(model, images, targets)
    assert set(found) == {"float32", "bfloat16"} and all(0 < seconds < 10 for seconds in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and not model.training
    assert torch.equal(torch.get_rng_state(), state) and flow.state_dict() == known
    model.train()(images)
    assert flow.penalty(torch.tensor(1.0)) == 0  # of this one forward: nothing else is waiting


@pytest.mark.parametrize(
    ("bfloat16", "expected"), [(13.0, "float32"), (0.5, "bfloat16"), (0.9, "float32"), (1.0, "float32")]
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(
    processor: Processor, digits: Data, bfloat16: float, expected: str
) -> None:
    processor(float32=1.0, bfloat16=bfloat16)
    assert chosen(digits) == expected


def test_a_training_of_seconds_stays_in_float32(processor: Processor, digits: Data) -> None:
    processor(
        float32=0.8, bfloat16=0.1, worth_measuring=60.0
    )  # steps of 8 images at first: a tenth of a second an image
    assert [chosen(digits, epochs) for epochs in (1, 100)] == ["float32", "bfloat16"]


class OnlyFloat32(nn.Module):
    """An operator that there is no bfloat16 of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        if logits.dtype is torch.bfloat16:
            raise NotImplementedError("not implemented for 'BFloat16'")
        return logits


def test_a_network_that_cannot_run_in_bfloat16_is_trained_in_float32(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(precision, "WORTH_MEASURING", 0.0)
    found = precision.measured_precision(Accelerator(), [OnlyFloat32()], digits, batch_size=32, epochs=10)
    assert found.precision == "float32" and set(found.seconds_an_image) == {"float32"}
    assert train(OnlyFloat32(), digits, settings(epochs=1), progress=False).precision == "float32"


def test_an_explicit_precision_is_not_measured(digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(precision, "measured_precision", None)
    (tmp_path / "precision.json").write_text("an older training's")
    asked = settings(precision="bfloat16", epochs=1)
    assert train(small(), digits, asked, run_folder=tmp_path, progress=False).precision == "bfloat16"
    assert not (tmp_path / "precision.json").exists()


class StopError(Exception):
    pass


class Stopping:
    """A penalty of nothing that ends the training at its second step, before any checkpoint."""

    calls = 0

    def __init__(self, at: int) -> None:
        self.at = at

    def penalty(self, task_loss: Tensor | None = None) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise StopError
        return torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


@pytest.mark.parametrize("stop", [2, 5], ids=["in the first epoch", "after a checkpoint"])
def test_a_killed_training_goes_on_in_the_precision_it_was_begun_in(
    tmp_path: Path, processor: Processor, digits: Data, stop: int
) -> None:
    through, stopped, resumed = small(), small(), small()
    train(through, digits, settings(precision="bfloat16"), regularizer=Stopping(0), progress=False)
    processor(float32=1.0, bfloat16=0.4)
    with pytest.raises(StopError):
        train(stopped, digits, settings(), regularizer=Stopping(stop), run_folder=tmp_path, progress=False)
    assert json.loads((tmp_path / "precision.json").read_text())["precision"] == "bfloat16"
    processor(float32=1.0, bfloat16=1.0)
    options: dict[str, Any] = {"run_folder": tmp_path, "resume": True, "progress": False}
    result = train(resumed, digits, settings(), regularizer=Stopping(0), **options)
    assert result.precision == "bfloat16" and len(result.history) == 3
    expected = through.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    with pytest.raises(OutputError, match="precision: bfloat16 instead of float32"):
        train(small(), digits, settings(precision="float32"), regularizer=Stopping(0), **options)
    assert train(small(), digits, settings(), regularizer=Stopping(0), **{**options, "resume": False}).precision == (
        "float32"
    )


def test_a_damaged_record_is_said_to_be_one(tmp_path: Path, digits: Data) -> None:
    (tmp_path / "precision.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"precision.json is damaged"):
        train(small(), digits, settings(), run_folder=tmp_path, resume=True, progress=False)


RECIPE: dict[str, Any] = {
    "network": {"name": "resnet8", "options": {"in_channels": 1, "width": 6}},
    "data": {"name": "digits", "subset": 64},
    "methods": ["plain", "ffr"],
    "flow": {"gradient": "5%"},
    "training": {"epochs": 1, "batch_size": 32},
    "pruning": {"budgets": [{"macs": 0.6}], "steps": 2, "between": {"epochs": 1, "batch_size": 32}},
    "finetuning": {"epochs": 1, "batch_size": 32},
}


def precisions(recipe: Any) -> list[str]:
    return [recipe[key]["precision"] for key in ("training", "finetuning")] + [
        recipe["pruning"]["between"]["precision"]
    ]


def test_a_run_measures_once_and_its_recipe_says_what_it_chose(
    tmp_path: Path, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(float32=1.0, bfloat16=0.5)
    recipe, out = Recipe.model_validate(RECIPE), tmp_path / "out"
    said: list[str] = []
    results = run(recipe, out, progress=False, say=said.append)
    assert said[0].startswith("precision bfloat16 (measured")
    assert precisions(yaml.safe_load((out / "recipe.yaml").read_text())) == ["bfloat16"] * 3
    assert precisions(results["recipe"]) == ["bfloat16"] * 3
    assert json.loads((out / "precision.json").read_text())["seconds_an_image"]["float32"] > 0
    assert list(out.rglob("precision.json")) == [out / "precision.json"], "no stage has measured for itself"
    monkeypatch.setattr(precision, "seconds_an_image", None)
    (out / "stages" / "resnet8-ffr-dense" / "stage.json").unlink()
    again = run(recipe, out, progress=False, resume=True)
    assert again["rows"] == results["rows"]
    assert load_recipe(out / "recipe.yaml") == as_begun(recipe, RunFolder(out))


def test_a_run_begun_before_there_was_a_choice_goes_on_in_float32(tmp_path: Path, processor: Processor) -> None:
    sections = {**RECIPE, "methods": ["plain"], "flow": None, "pruning": None, "finetuning": None}
    before = Recipe.model_validate({**sections, "training": {**RECIPE["training"], "precision": "float32"}})
    run(before, tmp_path / "out", progress=False)
    processor(float32=1.0, bfloat16=0.1)
    (tmp_path / "out" / "stages" / "resnet8-plain-dense" / "stage.json").unlink()
    results = run(Recipe.model_validate(sections), tmp_path / "out", progress=False, resume=True)
    assert results["recipe"]["training"]["precision"] == "float32"
