"""A recipe's options of pruning reach the cut, and cuts in steps train between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from flowprune.artifacts import load, read_header
from flowprune.engine.measuring import measure
from flowprune.errors import UnknownNameError
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import Recipe, dump_recipe, load_recipe

RECIPE = {
    "network": {"name": "resnet8", "options": {"in_channels": 1, "width": 8}},
    "data": {"name": "digits", "subset": 64},
    "training": {"epochs": 0, "batch_size": 32},
    "pruning": {
        "budgets": [{"macs": 0.7}, {"channels": {"layer3.*": 0.5}}],
        "round_to": 2,
        "largest_cut": {"conv1": 0.25},
        "ignore": ["layer2"],
        "freeze": {"layer3.0.conv1.weight": [0]},
        "steps": 2,
        "between": {"epochs": 1, "batch_size": 32, "augmentation": None},
    },
}
X = torch.zeros(1, 1, 16, 16)


def test_everything_a_recipe_says_of_pruning_is_done(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPE)
    out = tmp_path / "out"
    run(recipe, out, progress=False)
    results = json.loads((out / "results.json").read_text())
    counts, widths = results["plans"].values()
    dense = load(out / "models" / "resnet8-plain-dense.fp")
    small = load(next((out / "models").glob("*macs=0.7-pruned.fp")))
    assert counts["asked"] == "macs=0.7 in 2 steps" and counts["round_to"] == 2
    assert measure(small, X).macs <= 0.7 * measure(dense, X).macs
    assert len(read_header(next((out / "models").glob("*macs=0.7-pruned.fp"))).plans) == 2
    for name, tensor in dense.layer2.named_parameters():
        assert small.layer2.get_parameter(name).shape == tensor.shape
    assert small.layer3[0].conv1.out_channels == 32 and small.conv1.out_channels in (6, 8)
    assert any((out / "stages").glob("*macs=0.7-pruned-step1/metrics.jsonl")), "one epoch was trained between the cuts"
    assert widths["asked"].startswith("channels={layer3.*: 0.5}")
    assert all(width["reached"] % 2 == 0 for width in widths["rounded"])


def test_an_allocator_of_a_recipe_shares_the_budget_out(tmp_path: Path) -> None:
    pruning = {
        "budgets": [{"macs": 0.6}],
        "allocator": "rate_distortion",
        "allocator_options": {"points": 2},
        "batches": 1,
    }
    recipe = Recipe.model_validate({**RECIPE, "pruning": pruning})
    run(recipe, tmp_path / "out", progress=False)
    (made,) = json.loads((tmp_path / "out" / "results.json").read_text())["plans"].values()
    assert made["importance"].endswith(", RateDistortion")
    small, dense = (load(next((tmp_path / "out" / "models").glob(f"*{stage}.fp"))) for stage in ("pruned", "dense"))
    assert measure(small, X).macs <= 0.6 * measure(dense, X).macs
    unknown = Recipe.model_validate({**RECIPE, "pruning": {**pruning, "allocator": "rate_distorsion"}})
    with pytest.raises(UnknownNameError, match="rate_distortion"):
        run(unknown, tmp_path / "other", progress=False)


def test_new_keys_survive_being_written(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPE)
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"budgets": [{"threshold": 0.01}]}, "cannot be met in steps"),
        ({"largest_cut": 1.5}, "is not a share"),
        ({"allocator": "lamp"}, "budgets of macs, params or latency, not"),
        ({"allocator_options": {"points": 2}}, "name one as allocator"),
        ({"largest_cut": {"conv1": 0}}, "is not a share"),
        ({"budgets": [{"macs": 0.5, "latency": 0.7}]}, "exactly one of"),
    ],
)
def test_what_cannot_be_is_found_when_the_recipe_is_read(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Recipe.model_validate({**RECIPE, "pruning": {**RECIPE["pruning"], **changes}})  # type: ignore[dict-item]
