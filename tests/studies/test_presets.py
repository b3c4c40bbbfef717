"""Presets: every one is a recipe by itself and within another's network, data and budget, and says what it cannot be asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowprune.errors import RecipeError, UnknownNameError
from flowprune.methods.presets import KINDS, REGISTRY, Preset
from flowprune.studies.phases import CutPhase, RecoverPhase, TrainPhase
from flowprune.studies.preset_phases import phases_from
from flowprune.studies.recipe import Recipe, dump_recipe, load_recipe

FILES = {path.stem for path in (Path(__file__).parents[2] / "src/flowprune/methods/presets").glob("*.yaml")}
BUDGETS = {"macs": 0.5, "weights": 0.5, "bytes": 0.1}
MINE: dict[str, Any] = {
    "network": {"name": "resnet8", "options": {"in_channels": 1, "width": 4}},
    "data": {"name": "digits", "subset": 64},
    "training": {"epochs": 2, "batch_size": 32, "augmentation": None},
    "finetuning": {"epochs": 1, "lr": 0.01},
}


def asked(preset: Preset) -> dict[str, Any]:
    """A recipe with a budget that the preset can be asked for."""
    kind = next((kind for kind in BUDGETS if kind in preset.takes), None)
    return MINE if kind is None else {**MINE, "pruning": {"budgets": [{kind: BUDGETS[kind]}]}}


def written(content: dict[str, Any], folder: Path) -> Path:
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return folder / "mine.yaml"


def test_every_file_is_found() -> None:
    assert set(REGISTRY) == FILES and {"ffr", "eap", "l1", "l2", "taylor", "random"} <= FILES


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_preset_is_a_recipe_by_itself_and_in_somebody_elses(name: str, tmp_path: Path) -> None:
    preset = REGISTRY[name]
    short = load_recipe(method=name)
    assert short.name == name and short.methods == [name] and short.data.name == "digits"
    dump_recipe(short, tmp_path / "as-run.yaml")
    assert load_recipe(tmp_path / "as-run.yaml") == short
    recipe = load_recipe(written(asked(preset), tmp_path), method=name)
    assert recipe.methods == [name] and recipe.networks[0].options == MINE["network"]["options"]
    assert [phase.phase for phase in recipe.phases_of(name)] == [phase["phase"] for phase in preset.phases]
    # What the recipe writes counts, in the first training and in the recoveries; what it does not write is as published.
    trainings = [phase for phase in recipe.phases_of(name) if isinstance(phase, TrainPhase)]
    assert trainings[0].training.epochs == 2
    for phase in (phase for phase in recipe.phases_of(name) if isinstance(phase, RecoverPhase)):
        assert (phase.training.epochs, phase.training.lr) == (1, 0.01)
    dump_recipe(recipe, tmp_path / "as-run.yaml")
    assert load_recipe(tmp_path / "as-run.yaml") == recipe


def test_published_settings_stand_where_a_recipe_says_nothing() -> None:
    bare = {
        "network": "resnet20",
        "data": {"name": "cifar10"},
        "pruning": {"budgets": [{"macs": 0.4}]},
        "methods": ["l1"],
    }
    train, cut, recover = Recipe.model_validate(bare).phases_of("l1")
    assert isinstance(train, TrainPhase) and isinstance(cut, CutPhase) and isinstance(recover, RecoverPhase)
    assert (train.training.epochs, recover.training.epochs, recover.training.lr) == (200, 40, 0.001)
    assert cut.importance.name == "l1" and [str(budget) for budget in cut.budgets] == ["macs=0.4"]
    without = Recipe.model_validate({**bare, "finetuning": None})
    assert [phase.phase for phase in without.phases_of("l1")] == ["train", "cut"]


def test_several_methods_stand_beside_each_other() -> None:
    pruning = {"budgets": [{"macs": 0.5}], "importance": {"name": "l2"}}
    recipe = Recipe.model_validate({**MINE, "methods": ["plain", "eap", "random"], "pruning": pruning})
    criteria = [
        phase.importance.name
        for method in recipe.methods
        for phase in recipe.phases_of(method)
        if isinstance(phase, CutPhase)
    ]
    assert criteria == ["l2", "nuclear_norm", "random"]
    assert len({method: recipe.phases_of(method)[0] for method in recipe.methods}) == 3
    assert recipe.phases is not None and set(recipe.phases) == {"eap", "random"}


def test_a_phase_of_a_preset_can_be_changed_from_the_command_line(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["phases.0.training.epochs=2", "network.options.width=4"], method="l1")
    assert recipe.phases_of("l1")[0].training.epochs == 2 and recipe.networks[0].options["width"] == 4  # type: ignore[union-attr]
    file = written({**MINE, "pruning": {"budgets": [{"macs": 0.5}]}}, tmp_path)
    recipe = load_recipe(file, ["training.epochs=7", "phases.2.training.lr=0.5"], method="l1")
    train, _, recover = recipe.phases_of("l1")
    assert train.training.epochs == 7 and recover.training.lr == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("pruning", "said"),
    [
        (None, "the method l1 must know what to keep"),
        ({"budgets": [{"weights": 0.5}]}, "the method l1 cannot be asked for a budget of weights, only for macs"),
        ({"budgets": [{"macs": 0.5, "params": 0.5}]}, "exactly one of"),
    ],
)
def test_what_a_preset_cannot_be_asked_for_is_one_line(pruning: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(written({**MINE, "pruning": pruning}, tmp_path), method="l1")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown method 'taylr'; did you mean 'taylor'"):
        load_recipe(method="taylr")
    with pytest.raises(RecipeError, match=r"methods\.0: unknown method 'epa'; did you mean 'eap'"):
        load_recipe(written({**MINE, "methods": ["epa"]}, tmp_path))


def test_holes_take_the_share_of_the_one_budget() -> None:
    about = {**REGISTRY["l1"].model_dump(), "name": "towards"}
    acting = {"phase": "train", "regularizers": [{"name": "wgsef", "options": {"keep": "$keep", "cut": "$cut"}}]}
    preset = Preset.model_validate({**about, "phases": [acting, {"phase": "cut", "budgets": None}]})
    train, cut = phases_from(preset, {"pruning": {"budgets": [{"macs": 0.25}]}})
    assert train["regularizers"][0]["options"] == {"keep": 0.25, "cut": 0.75} and cut["budgets"] == [{"macs": 0.25}]
    for budgets in ([{"macs": 0.25}, {"macs": 0.5}], [{"macs": "60M"}]):
        with pytest.raises(RecipeError, match="trains towards one budget"):
            phases_from(preset, {"pruning": {"budgets": budgets}})


def test_a_third_partys_preset_comes_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = REGISTRY["l1"].model_dump(exclude={"name"})
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "their_package.py").write_text(f"FILE = {str(tmp_path / 'theirs.yaml')!r}\nBROKEN = {{'title': 'x'}}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("theirs", "their_package:FILE", "flowprune.presets")
    assert REGISTRY._loaded(point) == REGISTRY["l1"].model_copy(update={"name": "theirs"})
    with pytest.raises(RecipeError, match="the preset broken: paper: Field required"):
        REGISTRY._loaded(EntryPoint("broken", "their_package:BROKEN", "flowprune.presets"))


def test_kinds_have_the_budgets_that_they_can_keep() -> None:
    for preset in (REGISTRY[name] for name in REGISTRY):
        assert set(preset.takes) <= set(KINDS[preset.kind]), preset.name
