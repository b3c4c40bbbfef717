"""What version 0.1 left on people's disks still works: recipes, artifacts, and a run that was killed in mid-training.

tests/data/version_0_1 was written by that version: ``recipe.yaml`` as people wrote it and ``recipe_in_full.yaml`` as it was
understood; ``resnet8.fp``, cut twice (dead branch ends and folded constants first, MACs second), with what it computes;
``killed_run``, killed after the first epoch of the second of its two trainings, and ``whole_run.json``, what the same run came to
where nobody killed it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import flowprune as fp
from flowprune.engine.steps.lineage import lineage_of
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import dump_recipe, load_recipe

KEPT = Path(__file__).parent / "data" / "version_0_1"


def nearly(found: Any) -> Any:
    """Numbers up to what another processor's rounding makes of a few steps of training."""
    if isinstance(found, Mapping):
        return {key: nearly(value) for key, value in found.items()}
    if isinstance(found, list):
        return [nearly(value) for value in found]
    return pytest.approx(found, rel=1e-2, abs=1e-3) if isinstance(found, float) else found


def everything_said(before: Any, now: Any) -> bool:
    """Whether what was said before is said now; sections may have gained keys since."""
    if isinstance(before, dict):
        return isinstance(now, dict) and all(key in now and everything_said(before[key], now[key]) for key in before)
    if isinstance(before, list):
        return isinstance(now, list) and len(before) == len(now) and all(map(everything_said, before, now))
    return bool(before == now)


@pytest.mark.parametrize("written", ["recipe.yaml", "recipe_in_full.yaml", "killed_run/recipe.yaml"])
def test_a_recipe_means_what_it_meant(written: str) -> None:
    meant = yaml.safe_load((KEPT / "recipe_in_full.yaml").read_text(encoding="utf-8"))
    now = yaml.safe_load(dump_recipe(load_recipe(KEPT / written)))
    if (
        written == "recipe.yaml"
    ):  # it says nothing of the precision, which was float32 and is measured now where that is worth it
        for section in ("training", "finetuning"):
            assert meant[section].pop("precision") == "float32" and now[section].pop("precision") == "auto"
    assert everything_said(meant, now)


def test_an_artifact_computes_what_it_computed() -> None:
    model = fp.load(KEPT / "resnet8.fp").eval()
    expected = json.loads((KEPT / "resnet8.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        outputs = model(torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16))
    torch.testing.assert_close(outputs, torch.tensor(expected["outputs"]), rtol=1e-4, atol=1e-5)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]
    threshold, macs = lineage_of(model).plans
    assert threshold["branches"] and threshold["folds"] and macs["asked"] == "macs=0.7"


def test_an_artifact_can_be_cut_again_and_saved(tmp_path: Path) -> None:
    images = torch.zeros(1, 1, 16, 16)
    small = fp.prune(fp.load(KEPT / "resnet8.fp"), images, params=0.8, importance=fp.importance.L2())
    fp.save(small, tmp_path / "smaller.fp")
    again = fp.load(tmp_path / "smaller.fp")
    assert len(lineage_of(again).plans) == 3
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in small.state_dict().items())


def test_a_run_killed_in_mid_training_goes_on(tmp_path: Path) -> None:
    shutil.copytree(KEPT / "killed_run", tmp_path / "run")
    first_epoch = json.loads((tmp_path / "run/stages/vgg6-ffr-dense/metrics.jsonl").read_text(encoding="utf-8"))
    said: list[str] = []
    results = run(load_recipe(KEPT / "recipe.yaml"), tmp_path / "run", resume=True, progress=False, say=said.append)
    assert [line.endswith("done before") for line in said] == [True] * 5 + [False] * 5
    # The first epoch is the one that was trained then, to the second; those after it are as if nobody had killed it.
    assert results["histories"]["vgg6/ffr/dense"][0] == first_epoch
    whole = json.loads((KEPT / "whole_run.json").read_text(encoding="utf-8"))
    assert everything_said(nearly(whole["histories"]["vgg6/ffr/dense"]), results["histories"]["vgg6/ffr/dense"])
    assert everything_said(whole["rows"][:5], results["rows"][:5]) and len(results["rows"]) == len(whole["rows"])
    plain = {key: layers for key, layers in whole["channels"].items() if key.startswith("vgg6/plain/")}
    assert everything_said(plain, results["channels"]) and set(results["channels"]) == set(whole["channels"])
