"""``flowprune run``: what it leaves is what it says, it repeats itself, and it survives being killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from installed_command import forked, fresh, wait_until

from flowprune.artifacts import load, read_header
from flowprune.errors import OutputError
from flowprune.models import create
from flowprune.studies.flow_paths import flow_paths
from flowprune.studies.pipeline.job import Job
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import Recipe, load_recipe
from flowprune.training import evaluate, load_data

RECIPE = {
    "name": "small",
    "threads": 1,
    "networks": [{"name": "resnet8", "options": {"in_channels": 1, "width": 6}}],
    "data": {"name": "digits", "subset": 320},
    "methods": ["plain", "ffr"],
    "training": {"epochs": 3, "batch_size": 32, "augmentation": {"crop": 1, "flip": False}, "precision": "float32"},
    "flow": {"gradient": "20%", "curvature": "5%"},
    "pruning": {
        "budgets": [{"macs": 0.5}, {"threshold": 0.7}],
        "importance": {"name": "nuclear_norm"},
        "batches": 1,
        "batch_size": 64,
    },
    "finetuning": {"epochs": 1, "batch_size": 32, "lr": 0.01, "augmentation": None, "precision": "float32"},
}


def recipe_with(**changes: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(recipe_with(), folder, progress=False)
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def test_the_folder_holds_what_it_takes_to_repeat_the_run(finished: Path) -> None:
    assert {"results.json", "report.html", "model.fp", "recipe.yaml", "models", "stages"} == {
        entry.name for entry in finished.iterdir()
    }
    assert load_recipe(finished / "recipe.yaml") == recipe_with()
    results = results_of(finished)
    assert results["recipe"] == yaml.safe_load((finished / "recipe.yaml").read_text())
    assert results["seed"] == 0 and torch.__version__.startswith(results["environment"]["packages"]["torch"])
    assert not list(finished.rglob("checkpoint.pt")) and not list(finished.rglob("*.partial"))
    page = (finished / "report.html").read_text()
    assert "resnet8" in page and "macs=0.5" in page


def test_there_is_a_row_for_every_stage_of_every_method_and_budget(finished: Path) -> None:
    keys = [(row["method"], row["stage"], row["budget"]) for row in results_of(finished)["rows"]]
    expected = []
    for method in ("plain", "ffr"):
        expected.append((method, "dense", None))
        for budget in ("macs=0.5", "threshold=0.7"):
            expected += [(method, "pruned", budget), (method, "finetuned", budget)]
    assert keys == expected


def test_the_rows_tell_the_truth_about_the_saved_models(finished: Path) -> None:
    data = load_data("digits")
    rows = results_of(finished)["rows"]
    dense = create("resnet8", in_channels=1, width=6)
    for row in rows:
        suffix = {"dense": "dense", "pruned": f"{row['budget']}-pruned", "finetuned": row["budget"]}[row["stage"]]
        model = load(finished / "models" / f"resnet8-{row['method']}-{suffix}.fp")
        assert row["top1"] == pytest.approx(evaluate(model, data).top1, abs=1e-9)
        assert row["params"] == sum(parameter.numel() for parameter in model.parameters())
        convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
        assert row["filters"] == sum(convolution.out_channels for convolution in convolutions)
        assert row["macs"] == macs_by_hand(model)
        assert 0 <= row["dead_filters"] <= row["filters"] and 0 <= row["sparsity"] <= 1
        if row["budget"] is not None:
            assert row["filters_removed"] == rows[0]["filters"] - row["filters"]
        if row["budget"] == "macs=0.5":
            assert row["filters_removed"] > 0
            assert row["macs"] <= 0.5 * macs_by_hand(dense)


def macs_by_hand(model: torch.nn.Module) -> int:
    """Products of every convolution and linear layer on one digit, from the shapes that pass."""
    found = []

    def count(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        found.append(output[0].numel() * module.weight[0].numel())

    hooks = [
        m.register_forward_hook(count) for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 16, 16))
    for hook in hooks:
        hook.remove()
    return sum(found)


def nearly(found: Any) -> Any:
    """Numbers up to rounding: a busy machine may hand the same sums to other threads."""
    if isinstance(found, dict):
        return {key: nearly(value) for key, value in found.items()}
    if isinstance(found, list):
        return [nearly(value) for value in found]
    return pytest.approx(found, rel=1e-4, abs=1e-6) if isinstance(found, float) else found


def test_histories_profiles_and_channels_are_kept_for_the_report(finished: Path) -> None:
    results = results_of(finished)
    assert {key: len(epochs) for key, epochs in results["histories"].items()} == {
        **{f"resnet8/{method}/dense": 3 for method in ("plain", "ffr")},
        **{
            f"resnet8/{method}/finetuned/{budget}": 1
            for method in ("plain", "ffr")
            for budget in ("macs=0.5", "threshold=0.7")
        },
    }
    assert results["histories"]["resnet8/ffr/dense"][-1]["penalty"] > 0
    assert results["histories"]["resnet8/plain/dense"][-1]["penalty"] == 0
    profiles = results["flow_profiles"]
    assert set(profiles) == {"resnet8/plain", "resnet8/ffr"}
    assert profiles["resnet8/ffr"]["gradient"] < profiles["resnet8/plain"]["gradient"]
    for key, profile in profiles.items():
        model = load(finished / "models" / f"{key.replace('/', '-')}-dense.fp")
        batches = load_data("digits", subset=320).batches("train", batch_size=256, count=2, seed=0)
        assert profile == nearly(json.loads(json.dumps(flow_paths(model, batches).as_dict())))
    assert "ffr beside plain: " in (finished / "report.html").read_text(encoding="utf-8")
    for key, layers in results["channels"].items():
        model = load(finished / "models" / f"{key.replace('/', '-')}-pruned.fp")
        for layer in layers:
            assert model.get_submodule(layer["layer"]).weight.shape[0] == layer["kept"] <= layer["dense"]


def test_model_fp_is_the_finetuned_ffr_network_at_the_macs_budget(finished: Path) -> None:
    assert (finished / "model.fp").read_bytes() == (finished / "models" / "resnet8-ffr-macs=0.5.fp").read_bytes()
    assert read_header(finished / "model.fp").notes["input"] == [1, 16, 16]


def test_both_methods_start_from_the_same_weights_and_see_the_same_images(tmp_path: Path) -> None:
    recipe = recipe_with(pruning=None, finetuning=None, flow={"gradient": 1e-30, "curvature": None})
    job = Job(recipe, load_data("digits", subset=320), torch.device("cpu"))
    first, second = (job.build(recipe.networks[0]).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    results = run(recipe, tmp_path / "run", progress=False)
    plain, ffr = (results["histories"][f"resnet8/{method}/dense"] for method in ("plain", "ffr"))
    # A penalty of nothing must leave nothing that differs.
    assert [epoch["task_loss"] for epoch in plain] == [epoch["task_loss"] for epoch in ffr]
    assert (tmp_path / "run" / "model.fp").is_file()


def test_a_folder_in_use_is_kept_unless_one_says_otherwise(finished: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="not empty"):
        run(recipe_with(), finished, progress=False)
    with pytest.raises(OutputError, match=r"training\.seed was 0 and is 1"):
        run(recipe_with(training={**RECIPE["training"], "seed": 1}), finished, progress=False, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "models").mkdir()
    (tmp_path / "other" / "models" / "precious.fp").write_text("mine")
    for how in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(OutputError):
            run(recipe_with(), tmp_path / "other", progress=False, **how)
    assert (tmp_path / "other" / "models" / "precious.fp").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        run(recipe_with(), tmp_path / "file", progress=False, overwrite=True)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_resuming_a_finished_run_trains_nothing_and_says_the_same(finished: Path) -> None:
    before = results_of(finished)
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "models").iterdir()}
    said: list[str] = []
    run(recipe_with(), finished, progress=False, resume=True, say=said.append)
    assert len(said) == 10 and all("done before" in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in (finished / "models").iterdir()} == stamps
    assert results_of(finished)["rows"] == before["rows"]


def test_overwriting_removes_the_old_run_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    short = {"training": {"epochs": 0}, "pruning": None, "finetuning": None}
    run(recipe_with(**short), folder, progress=False)
    (folder / "notes.txt").write_text("mine")
    run(recipe_with(**short, methods=["plain"]), folder, progress=False, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in (folder / "models").iterdir()] == ["resnet8-plain-dense.fp"]
    assert {row["method"] for row in results_of(folder)["rows"]} == {"plain"}


def test_a_run_that_is_killed_and_interrupted_ends_as_one_never_disturbed(finished: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "disturbed"
    killed = fresh("run", recipe, "--out", out)
    # The second training is under way: one stage of each kind of the first method lies behind.
    wait_until(out / "stages" / "resnet8-ffr-dense" / "checkpoint.pt", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (out / "results.json").exists()
    first_model = out / "models" / "resnet8-plain-dense.fp"
    stamp = first_model.stat().st_mtime_ns

    interrupted = forked("run", recipe, "--out", out, "--resume")
    # Four stages and the report are still to come: time enough for the signal, however busy the machine.
    wait_until(out / "stages" / "resnet8-ffr-dense" / "stage.json", interrupted)
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate()
    assert interrupted.returncode == 130
    last = errors.splitlines()[-1]
    assert last.startswith("interrupted; `flowprune run") and "--resume` goes on where it stopped" in last
    assert "Traceback" not in errors and not (out / "results.json").exists()

    done = forked("run", recipe, "--out", out, "--resume")
    printed, errors = done.communicate()
    assert done.returncode == 0, errors
    assert errors.count("done before") >= 6 and first_model.stat().st_mtime_ns == stamp
    assert errors.splitlines()[-1].startswith(
        f"{out}: report.html to look at, results.json with every number, model.fp "
    )
    assert "finetuned" in printed and "threshold=0.7" in printed
    assert results_of(out)["rows"] == results_of(finished)["rows"]
    for path in (finished / "models").iterdir():
        assert (out / "models" / path.name).read_bytes() == path.read_bytes(), path.name


def test_report_prints_the_table_and_writes_the_page_anew(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flowprune.cli import main

    page = finished / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", str(finished), "--markdown"]) == 0
    assert capsys.readouterr().out.count("| resnet8 |") == 10
    assert page.read_text() == before
