"""Presets beside criteria: each under budgets of its kind, all from the same dense model, and what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowprune.artifacts import load
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import RecipeError
from flowprune.studies.comparison.comparing import compare
from flowprune.studies.comparison.comparison_recipe import comparison_recipe
from flowprune.studies.comparison.summary import markdown_table

CHANGES = {"1.training.epochs": 6, "1.training.batch_size": 32, "1.regularizers.0.options": {"ratio": 0.5}}
RECIPE: dict[str, Any] = {
    "threads": 1,
    "network": {"name": "resnet8", "options": {"in_channels": 1, "width": 6}},
    "data": {"name": "digits", "subset": 96, "size": 8},
    "training": {"epochs": 2, "batch_size": 32, "augmentation": None, "precision": "float32"},
    "methods": [
        *("l1", {"preset": "tpp", "changes": CHANGES}, {"name": "ours", "preset": "wgsef"}, "hetconv"),
        {"preset": "rd", "changes": {"1.allocator": None}},
        {"preset": "ham", "changes": {"1.budgets": [{"weights": 0.4}], "3.training": None}},
    ],
    "seeds": [4],
    "pruning": {"budgets": [{"macs": 0.6}, {"weights": 0.3}, {"bytes": 0.3}]},
    "finetuning": {"epochs": 1, "batch_size": 32, "lr": 0.01, "augmentation": None, "precision": "float32"},
    "scratch": None,
}


def test_presets_run_under_budgets_of_their_kind_and_the_rest_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    found = compare(RECIPE, tmp_path / "out", progress=False, say=said.append)
    rows = {(row["method"], row["budget"]): row for row in found["table"]}
    assert set(rows) == {
        ("dense", None),
        ("control", None),
        ("hetconv", None),
        *((name, "macs=0.6") for name in ("l1", "tpp", "ours")),
        ("rd", "weights=0.3"),
        ("ham", "bytes=0.3"),
    }
    dense, masked_row, packed_row = (
        rows[key] for key in (("dense", None), ("rd", "weights=0.3"), ("ham", "bytes=0.3"))
    )
    assert (
        masked_row["macs"] == dense["macs"] and masked_row["effective_macs"] < dense["effective_macs"] == dense["macs"]
    )
    assert masked_row["nonzero"][0] < 0.4 * dense["nonzero"][0] and masked_row["bytes"] == dense["bytes"]
    assert packed_row["bytes"][0] <= 0.3 * dense["bytes"][0] and packed_row["params"] == dense["params"]
    shown = markdown_table(found).splitlines()
    assert "| non-zero | effective MACs | bytes |" in shown[0]
    assert [line for line in shown if "| ham |" in line and f"{packed_row['bytes'][0] / 1e6:.3f}M" in line]
    assert found["left_out"] == [
        "l1 under weights=0.3: a criterion cuts channels, it keeps no weights",
        "l1 under bytes=0.3: a criterion cuts channels, it keeps no bytes",
        *(f"tpp under {kind}=0.3: it can be asked for macs, params, channels" for kind in ("weights", "bytes")),
        *(f"ours under {kind}=0.3: it can be asked for macs" for kind in ("weights", "bytes")),
        *(f"rd under {budget}: it can be asked for weights" for budget in ("macs=0.6", "bytes=0.3")),
        *(f"ham under {budget}: it can be asked for bytes" for budget in ("macs=0.6", "weights=0.3")),
    ]
    assert [line.removeprefix("left out: ") for line in said if line.startswith("left out")] == found["left_out"]
    for name in ("l1", "tpp", "ours"):
        assert rows[name, "macs=0.6"]["macs_share"][0] <= 0.6 and rows[name, "macs=0.6"]["after"] is not None
    runs = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out" / "results").glob("*.json")}
    stages = {name: [row["stage"] for row in run["rows"]] for name, run in runs.items()}
    assert stages["tpp-macs=0.6-seed4"] == ["dense", "dense-2", "pruned", "finetuned"]
    assert stages["ours-macs=0.6-seed4"] == ["dense", "trained", "pruned", "finetuned"]
    assert stages["hetconv-seed4"] == ["dense", "masked", "trained"]
    assert len({run["rows"][0]["top1"] for run in runs.values()}) == 1  # one dense model for all
    masked = load(tmp_path / "out" / "models" / "hetconv-seed4-trained.fp")
    held = lineage_of(masked).masks
    assert held and all((masked.get_parameter(name)[~mask] == 0).all() for name, mask in held.items())
    again: list[str] = []
    compare(RECIPE, tmp_path / "out", progress=False, resume=True, say=again.append)
    assert again and all("done before" in line or "left out" in line for line in again)


def test_everything_of_a_preset_is_the_comparisons_where_it_can_be() -> None:
    recipe = comparison_recipe(RECIPE)
    run = recipe.run_recipe(4, recipe.methods[1], recipe.pruning.budgets[0])
    train, push, cut, tune = run.phases_of("tpp")
    assert train.training == run.training and tune.training == run.finetuning  # type: ignore[union-attr]
    assert (push.training.epochs, push.training.seed, push.training.lr) == (6, 4, 0.001)  # type: ignore[union-attr]
    assert [str(budget) for budget in cut.budgets] == ["macs=0.6"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "x", "preset": "tpp", "importance": "l1"}, "is an importance or a preset"),
        ({"preset": "tpp", "options": {"ratio": 0.5}}, "write changes: for the preset 'tpp'"),
    ],
)
def test_a_method_is_one_of_both(method: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        comparison_recipe({**RECIPE, "methods": [method]})
