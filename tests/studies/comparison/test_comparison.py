"""``flowprune compare``: every method under the same conditions, a table that says what the runs say, and no work done twice."""

from __future__ import annotations

import json
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from installed_command import forked, wait_until

import flowprune
from flowprune.artifacts import load, read_header
from flowprune.errors import OutputError
from flowprune.methods.importance import L2
from flowprune.models import create
from flowprune.pruning import plan, prune
from flowprune.reporting import load_results
from flowprune.studies.comparison.comparing import compare
from flowprune.studies.comparison.scratch import from_scratch
from flowprune.studies.comparison.summary import markdown_table
from flowprune.training import evaluate, load_data

RECIPE: dict[str, Any] = {
    "name": "small",
    "threads": 1,
    "network": {"name": "resnet8", "options": {"in_channels": 1, "width": 6}},
    "data": {"name": "digits", "subset": 256},
    "training": {"epochs": 2, "batch_size": 32, "augmentation": None},
    "methods": [
        "l2",
        {"name": "energy", "importance": "nuclear_norm", "options": {"reading": "mean"}},
        {"name": "chance", "importance": "random", "scope": "local"},
    ],
    "seeds": [0, 3],
    "pruning": {"budgets": [{"macs": 0.6}], "batches": 1, "batch_size": 64},
    "finetuning": {"epochs": 2, "batch_size": 32, "lr": 0.02, "augmentation": {"crop": 1, "flip": False}},
    "scratch": {"of": ["energy"]},
}
LABELS = ("control", "l2", "energy", "chance", "scratch-energy")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that nobody disturbed."""
    folder = tmp_path_factory.mktemp("comparisons") / "whole"
    flowprune.compare(RECIPE, folder, progress=False)
    return folder


def runs_of(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (folder / "results").glob("*.json")]
    return {(run["comparison"]["method"], run["comparison"]["seed"]): run for run in found}


def table_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in json.loads((folder / "comparison.json").read_text())["table"]}


def macs_by_hand(model: torch.nn.Module) -> int:
    found = []

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        found.append(output[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 16, 16))
    return sum(found)


def test_every_cell_leaves_one_results_file_that_reads_as_a_runs(finished: Path) -> None:
    assert set(runs_of(finished)) == {(label, seed) for label in LABELS for seed in (0, 3)}
    for path in (finished / "results").glob("*.json"):
        results = load_results(path)
        stages = [row.stage for row in results.rows]
        assert stages == (["dense", "pruned", "finetuned"] if len(stages) == 3 else ["dense", "finetuned"])
        assert results.rows[0].method == results.rows[-1].method


def test_the_rows_tell_the_truth_about_the_saved_models(finished: Path) -> None:
    data = load_data("digits")
    dense = macs_by_hand(create("resnet8", in_channels=1, width=6))
    checked = 0
    for (label, seed), run in runs_of(finished).items():
        for row in run["rows"][1:]:
            budget = "" if row["budget"] is None else f"-{row['budget']}"
            suffix = "-pruned" if row["stage"] == "pruned" else ""
            model = load(finished / "models" / f"{label.replace('-', '_')}{budget}-seed{seed}{suffix}.fp")
            assert row["top1"] == pytest.approx(evaluate(model, data).top1, abs=1e-9)
            assert row["params"] == sum(parameter.numel() for parameter in model.parameters())
            assert row["macs"] == macs_by_hand(model)
            assert row["macs"] <= (0.6 * dense if budget else dense)
            checked += 1
    assert checked == 2 * (3 * 2 + 2)


def test_all_methods_of_a_seed_start_from_one_model_and_train_alike(finished: Path) -> None:
    runs = runs_of(finished)
    for seed in (0, 3):
        ours = [run for (_, of), run in runs.items() if of == seed]
        assert len({json.dumps({**run["rows"][0], "method": ""}) for run in ours}) == 1
        rates = set()
        for run in ours:
            (history,) = [epochs for key, epochs in run["histories"].items() if "/finetuned" in key]
            rates.add(tuple((epoch["epoch"], epoch["lr"]) for epoch in history))
            assert run["recipe"]["finetuning"]["seed"] == seed and run["recipe"]["training"]["seed"] == seed
        assert len(rates) == 1 and len(next(iter(rates))) == 2
    assert runs["control", 0]["rows"][0]["top1"] != runs["control", 3]["rows"][0]["top1"]


def test_chance_is_drawn_anew_for_every_seed_and_scopes_differ_by_method(finished: Path) -> None:
    runs = runs_of(finished)
    assert [runs["chance", seed]["comparison"]["criterion"]["options"] for seed in (0, 3)] == [{"seed": 0}, {"seed": 3}]
    cuts = [read_header(finished / "models" / f"chance-macs=0.6-seed{seed}-pruned.fp").plans[-1] for seed in (0, 3)]
    assert cuts[0]["removed"] != cuts[1]["removed"] and {cut["scope"] for cut in cuts} == {"local"}
    assert read_header(finished / "models" / "l2-macs=0.6-seed0-pruned.fp").plans[-1]["scope"] == "global"


def test_the_table_is_the_mean_and_deviation_of_the_runs(finished: Path) -> None:
    runs, table = runs_of(finished), table_of(finished)
    assert list(table) == ["dense", *LABELS]
    for label in LABELS:
        ends = [runs[label, seed]["rows"][-1] for seed in (0, 3)]
        after = [row["top1"] for row in ends]
        row = table[label]
        assert row["seeds"] == [0, 3] and row["macs"] == [end["macs"] for end in ends]
        assert row["after_mean"] == pytest.approx(sum(after) / 2)
        assert row["after_deviation"] == pytest.approx(abs(after[0] - after[1]) / 2**0.5)
        control = [runs["control", seed]["rows"][-1]["top1"] for seed in (0, 3)]
        assert row["beside_control"] == pytest.approx([a - c for a, c in zip(after, control, strict=True)])
    before = [runs["l2", seed]["rows"][1]["top1"] for seed in (0, 3)]
    assert table["l2"]["before"] == before and table["scratch-energy"]["before"] is None
    lines = markdown_table(json.loads((finished / "comparison.json").read_text())).splitlines()
    assert len(lines) == 2 + 6
    shown = next(line for line in lines if "| l2 |" in line)
    assert f"{statistics.mean(before):.2f} ± {statistics.stdev(before):.2f}" in shown


def test_the_page_is_complete_in_itself(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "scratch-energy" in page and page.count('data-figure="figure-') == 2
    assert 'src="http' not in page and "<link" not in page
    figure = json.loads(page.partition('data-figure="figure-0">')[2].partition("</script>")[0])
    after = {trace["name"]: trace["y"] for trace in figure["data"]}
    assert after["l2"] == [pytest.approx(table_of(finished)["l2"]["after_mean"])]


def test_scratch_has_the_pruned_architecture_and_none_of_its_weights() -> None:
    torch.manual_seed(0)
    dense = create("resnet8", in_channels=1, width=16)
    made = plan(dense, torch.zeros(1, 1, 16, 16), importance=L2(), macs=0.5)
    small = prune(dense, made)
    fresh = create("resnet8", in_channels=1, width=16)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    new = from_scratch(fresh, "resnet8", [made])
    assert {name: t.shape for name, t in new.state_dict().items()} == {
        n: t.shape for n, t in small.state_dict().items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
    for name, module in new.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert not torch.equal(module.weight, small.get_submodule(name).weight)
            he = (2 / module.weight[0].numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(he, rel=0.25)


def test_weights_in_the_data_folder_make_one_dense_model_for_all_seeds(tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(create("resnet8", in_channels=1, width=6).state_dict(), tmp_path / "given.pt")
    recipe: dict[str, Any] = {
        **RECIPE,
        "training": {"epochs": 0},
        "finetuning": None,
        "methods": ["l2", "taylor"],
    }
    recipe |= {"network": {**RECIPE["network"], "weights": "given.pt"}, "scratch": None}
    comparison = compare(recipe, tmp_path / "out", data_dir=tmp_path, progress=False)
    assert [path.name for path in (tmp_path / "out" / "models").glob("dense*")] == ["dense.fp"]
    rows = {row["method"]: row for row in comparison["table"]}
    assert set(rows) == {"dense", "l2", "taylor"} and rows["l2"]["after"] is None
    assert str(tmp_path) not in (tmp_path / "out" / "comparison.json").read_text()
    # Weights alone do not depend on the seed; which images are seen does.
    assert len(set(rows["l2"]["before"])) == 1
    cuts = [read_header(tmp_path / "out" / "models" / f"taylor-macs=0.6-seed{seed}-pruned.fp") for seed in (0, 3)]
    assert cuts[0].plans[-1]["removed"] != cuts[1].plans[-1]["removed"]


def test_a_killed_comparison_goes_on_and_ends_as_one_never_disturbed(finished: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "disturbed"
    recipe.write_text(yaml.safe_dump(RECIPE))
    killed = forked("compare", recipe, "--out", out)
    wait_until(out / "stages" / "energy-macs=0.6-seed0" / "checkpoint.pt", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    cells = json.loads((out / "comparison.json").read_text())["cells"]
    assert 0 < cells["finished"] < cells["of"]
    reported = forked("report", out, "--markdown")
    printed, errors = reported.communicate()
    assert reported.returncode == 0, errors
    assert "| control |" in printed and "scratch-energy" not in printed, "what is finished has a table"
    kept = {path: path.stat().st_mtime_ns for path in (out / "models").glob("*.fp")}
    assert len(kept) >= 5

    done = forked("compare", recipe, "--out", out, "--resume", "--markdown")
    printed, errors = done.communicate()
    assert done.returncode == 0, errors
    assert printed.count("| macs=0.6 |") == 4
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert table_of(out) == table_of(finished)
    for path in (finished / "models").iterdir():
        assert (out / "models" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_folder_in_use_is_kept_unless_one_says_otherwise(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="not empty"):
        compare(RECIPE, finished, progress=False)
    with pytest.raises(OutputError, match=r"seeds was \[0, 3\] and is \[0\]"):
        compare({**RECIPE, "seeds": [0]}, finished, progress=False, resume=True)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_overwriting_removes_the_old_comparison_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(create("resnet8", in_channels=1, width=6).state_dict(), tmp_path / "given.pt")
    short: dict[str, Any] = {
        **RECIPE,
        "training": {"epochs": 0},
        "finetuning": None,
        "scratch": None,
        "methods": ["l2"],
    }
    short |= {"network": {**RECIPE["network"], "weights": str(tmp_path / "given.pt")}}
    out = tmp_path / "out"
    compare(short, out, progress=False)
    (out / "results" / "notes.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    compare({**short, "methods": ["l1"], "seeds": [7]}, out, progress=False, overwrite=True)
    assert {path.name for path in (out / "results").iterdir()} == {"notes.json", "l1-macs=0.6-seed7.json"}
    assert {path.name for path in (out / "models").iterdir()} == {"dense.fp", "l1-macs=0.6-seed7-pruned.fp"}
    assert (out / "notes.txt").read_text() == "mine" and "l2" not in table_of(out)
