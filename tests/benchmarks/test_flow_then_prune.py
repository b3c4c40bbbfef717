"""Every way keeps to the MACs of the first one and to its epochs, and nothing finished is done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flowprune.studies.phases.training_phase as training_phase
from flowprune.studies.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "benchmarks" / "flow_then_prune").glob("*.yaml"))
TINY = [
    "network.name=resnet8",
    "data.subset=96",
    "training.epochs=1",
    "finetuning.epochs=1",
    "pruning.budgets=[{threshold: 0.99}]",  # of a network that has hardly learned, so much is below it
    "pruning.fold_tolerance=1000",
]


@pytest.fixture
def tiny() -> Recipe:
    return load_recipe(ROOT / "benchmarks" / "flow_then_prune" / "digits.yaml", TINY)


def test_all_ways_have_the_same_macs_and_epochs_and_are_not_done_twice(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flow_then_prune.run import WAYS, of_seed

    found = of_seed(tiny, 1, tmp_path, None, progress=False)
    dense = found["dense"]["plain"]["macs"]
    assert found["budget_macs"] == found["ways"]["ffr, threshold"]["finetuned"]["macs"] < dense
    for way in WAYS:
        stages = found["ways"][way.name]
        epochs = [
            stage["history"]["task_loss"].split() for stage in (found["dense"][way.training], stages["finetuned"])
        ]
        assert [len(each) for each in epochs] == [1, 1], way
        macs = stages["finetuned"]["macs"]
        assert macs == dense if way.criterion is None else 0.9 * found["budget_macs"] < macs <= found["budget_macs"], (
            way
        )
    assert set(found["dense"]) == {"plain", "ffr"}
    assert (
        found["dense"]["plain"]["history"]["strength"] is None and found["dense"]["ffr"]["history"]["strength"] == "1"
    )
    assert found["recipe"]["training"]["seed"] == found["recipe"]["finetuning"]["seed"] == 1

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training_phase, "train", again)
    assert of_seed(tiny, 1, tmp_path, None, progress=False) == found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_committed_recipes_are_fit_for_it(path: Path) -> None:
    from flow_then_prune.run import WAYS, checked, recipe_of

    recipe = checked(load_recipe(path))
    assert path.stem == recipe.name
    made = [recipe_of(recipe, way, 2, 1000) for way in WAYS]
    assert {one.training.epochs for one in made} == {recipe.training.epochs}
    assert {one.training.seed for one in made} == {2}
    budgets = [str(one.pruning.budgets[0]) for one in made if one.pruning is not None]
    assert budgets.count("macs=1000") == sum(bool(way.criterion) for way in WAYS) == 4


def test_a_recipe_that_sets_no_budget_is_refused(tiny: Recipe) -> None:
    from flow_then_prune.run import checked

    with pytest.raises(SystemExit, match="one threshold"):
        checked(tiny.model_copy(update={"pruning": None}))


def test_the_table_compares_seed_by_seed_and_says_what_is_missing() -> None:
    from flow_then_prune.page import section
    from flow_then_prune.run import WAYS

    def result(gain: float) -> dict[str, Any]:
        stage = {"macs": 50, "params": 5, "top1": 60.0}
        ways = {
            way.name: {
                "pruned": {**stage, "top1": 40.0},
                "finetuned": {**stage, "top1": 60 + gain * (way.training == "ffr")},
            }
            for way in WAYS
        }
        whole = {"macs": 100, "params": 10, "top1": 70.0}
        return {"dense": {"plain": whole, "ffr": whole}, "ways": ways}

    nothing = section("digits", {})
    assert nothing.count("not run yet") == 1 + 6 * len(WAYS) and "benchmarks/flow_then_prune/digits.yaml" in nothing
    text = section("digits", {0: result(1.0), 2: result(3.0)})
    assert "seeds 0, 2; seeds 1 not run yet" in text
    assert (
        "| ffr, l1 | 50.00 ± 0.00 | 50.00 ± 0.00 | 70.00 ± 0.00 | 40.00 ± 0.00 | 62.00 ± 1.41 | +2.00 ± 1.41 |" in text
    )
    assert "| energy-aware | 50.00 | 50.00 | 70.00 | 40.00 | 60.00 | - |" in text
    assert "| uncut | 50.00 ± 0.00 | 50.00 ± 0.00 | 70.00 ± 0.00 | - | 60.00 ± 0.00 | +0.00 ± 0.00 |" in text
