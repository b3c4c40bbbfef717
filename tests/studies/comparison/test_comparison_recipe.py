"""The recipe of a comparison: what can be left out, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowprune import models
from flowprune.errors import RecipeError
from flowprune.methods.importance import REGISTRY
from flowprune.studies.comparison import load_comparison_recipe
from flowprune.studies.phases.criteria import importance_from

FOLDER = Path(__file__).parents[3] / "recipes"
SMALL = """
network: resnet8
data: {name: digits}
training: {epochs: 3}
methods: [l1, {name: energy, importance: nuclear_norm, options: {reading: mean}}]
pruning: {budgets: [{macs: 0.5}]}
finetuning: {epochs: 2}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("compare-*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_its_criteria_exist(path: Path) -> None:
    recipe = load_comparison_recipe(path)
    assert recipe.name == path.stem and recipe.network.name in models.names()
    assert recipe.finetuning is not None and recipe.control
    for method in recipe.methods:
        section = method.criterion(0)
        assert section.name in REGISTRY
        importance_from(section.name, section.options, list)


def test_names_alone_stand_for_sections(small: Path) -> None:
    recipe = load_comparison_recipe(small)
    assert [(method.name, method.importance) for method in recipe.methods] == [("l1", "l1"), ("energy", "nuclear_norm")]
    assert recipe.network.name == "resnet8" and recipe.seeds == [0, 1, 2]
    assert [method.name for method in recipe.scratch_methods] == ["l1"]


def test_a_cell_is_a_run_of_its_own_seed(small: Path) -> None:
    recipe = load_comparison_recipe(small)
    run = recipe.run_recipe(2, recipe.methods[1], recipe.pruning.budgets[0])
    assert run.pruning is not None and run.finetuning is not None
    assert run.training.seed == run.finetuning.seed == 2
    assert run.pruning.importance.name == "nuclear_norm" and run.pruning.importance.options == {"reading": "mean"}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("methods=[l1, l1]", ["two methods are named 'l1'"]),
        ("methods=[{name: a-b, importance: l1}, {name: a_b, importance: l2}]", ["differ in marks only"]),
        ("methods=[{name: control, importance: l1}]", ["'control' is no name"]),
        ("methods=[]", ["methods", "at least 1"]),
        ("methods=[{importanc: l1}]", ["methods.0.name"]),
        ("seeds=[1, 1]", ["seeds are different"]),
        ("pruning.importance.name=l2", ["listed under methods"]),
        ("pruning.budgets.0={threshold: 0.1}", ["threshold"]),
        ("scratch.of=[l2]", ["no method is named 'l2'", "l1, energy"]),
        ("training.epochs=0", ["nothing would be trained"]),
        ("finetunin.epochs=1", ["'finetunin'", "did you mean 'finetuning'?"]),
        ("pruning.bugets=[]", ["'bugets'", "did you mean 'budgets'?"]),
    ],
)
def test_wrong_recipes_are_one_line(small: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_comparison_recipe(small, [override])
    message = str(caught.value)
    assert "\n" not in message and str(small) in message
    for part in parts:
        assert part in message
