"""The ablation's cells are the issue's grid; a cell runs, goes on where it was killed, and its table says what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import flowprune.training.loop as loop
from flowprune.models import create
from flowprune.training import Data, load_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", subset=64)


def tiny(data: Data, folder: Path) -> Any:
    from ablation.run import Ablation, Setting

    setting = Setting("resnet8", (("in_channels", 1), ("width", 8)), "digits", 64, 2)
    return Ablation(setting, data, folder / "out", folder / "work")


def test_the_cells_are_the_grid_the_shares_and_the_seeds() -> None:
    from ablation.run import DEFAULT, WINNER, cells, grid, seeds, shares

    wanted = {("none", "", "")} | set(
        product(("gradient", "curvature", "both"), ("skip", "project"), ("mean", "channel", "sum"))
    )
    assert {(cell.terms, cell.across, cell.reduction) for cell in grid()} == wanted and len(grid()) == len(wanted)
    assert {cell.share for cell in grid() if cell.terms != "none"} == {DEFAULT.share}
    assert {(cell.weight_decay, cell.seed) for cell in grid()} == {(5e-4, 0)}
    assert WINNER in grid() and len(shares()) == 10 and len({cell.share for cell in shares()}) == 5
    assert {replace(cell, share=0) for cell in shares()} == {replace(cell, share=0) for cell in (WINNER, DEFAULT)}
    assert sorted((cell.terms, cell.seed) for cell in seeds()) == [(t, s) for t in ("both", "none") for s in range(3)]
    every = cells()
    assert {*grid(), *shares(), *seeds()} <= set(every)
    assert len({cell.name for cell in every}) == len(every)


def test_a_cell_asks_the_flow_for_what_it_is_called() -> None:
    from ablation.run import DEFAULT, NONE

    assert NONE.flow is None
    assert DEFAULT.flow == {"gradient": "5%", "curvature": "5%", "across": "project", "reduction": "mean"}
    assert replace(DEFAULT, terms="curvature", across="skip", reduction="sum").flow == {
        "gradient": None,
        "curvature": "5%",
        "across": "skip",
        "reduction": "sum",
    }


def test_a_killed_cell_goes_on_and_ends_as_one_never_killed(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ablation.run as ablation
    from ablation.run import DEFAULT

    cell = replace(DEFAULT, terms="gradient", reduction="channel", seed=1)
    whole = tiny(digits, tmp_path / "whole").carried_out(cell)
    assert len(whole["history"]) == 2 and whole["network"]["filters"] > 0 and len(whole["removal"]) == 6
    killed = tiny(digits, tmp_path / "killed")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "append_metrics", die)  # in the first epoch, right after its checkpoint
        with pytest.raises(KeyboardInterrupt):
            killed.carried_out(cell)
    assert killed.state(cell) == "not run"
    with monkeypatch.context() as patched:
        patched.setattr(ablation, "removal", die)
        with pytest.raises(KeyboardInterrupt):
            killed.carried_out(cell)
    assert killed.state(cell) == "trained"
    with monkeypatch.context() as patched:
        patched.setattr(ablation, "train", die)  # what is trained is only measured
        found = killed.carried_out(cell)
        assert killed.state(cell) == "done" and killed.carried_out(cell) == found
    assert json.loads(killed.result(cell).read_text()) == found
    for key in ("top1", "coefficients", "network", "removal", "flow", "training"):
        assert found[key] == whole[key], key


def test_a_result_of_another_setting_is_not_taken_for_this_one(digits: Data, tmp_path: Path) -> None:
    from ablation.run import NONE, SHORT

    runs = tiny(digits, tmp_path)
    runs.out.mkdir()
    runs.result(NONE).write_text(json.dumps({"setting": SHORT.described()}))
    with pytest.raises(SystemExit, match="another setting"):
        runs.carried_out(NONE)


def test_dead_branch_ends_are_removed_only_with_branches(digits: Data) -> None:
    from ablation.run import removal

    torch.manual_seed(0)
    model = create("resnet8", in_channels=1, width=8).eval()
    with torch.no_grad():
        model.layer2[0].bn2.weight[:6] = 0  # type: ignore[index, union-attr]
        model.layer2[0].bn2.bias[:6] = 0  # type: ignore[index, union-attr]
    cuts = {(cut["threshold"], cut["branches"]): cut for cut in removal(model, digits, before=-1.0)}
    without, every = cuts[0.01, False], cuts[0.01, "always"]
    assert (
        without["macs"][0] == without["macs"][1] and without["top1"] == -1.0
    )  # nothing left, so nothing was tested again
    assert every["macs"][1] < every["macs"][0] and every["params"][1] < every["params"][0]
    assert every["filters_removed"] == 6 and every["branch_changes"]["opened"] == 1 and every["top1"] >= 0


def record(**network: Any) -> dict[str, Any]:
    found = {
        "filters": 100,
        "dead_by_threshold": {"0.1": 4, "0.01": 0},
        "silent_channels": 3,
        "sparsity": 0.25,
        "flow_gradient": 1.5,
        "flow_relative": [None, 0.25, 0.75, 0.5],
        **network,
    }
    cut = {"threshold": 0.1, "macs": [100, 100], "params": [10, 10], "filters_removed": 0, "branch_changes": {}}
    removal = [{**cut, "branches": way, "top1": 50.0} for way in (False, True)]
    removal.append(
        {**cut, "branches": "always", "macs": [100, 90], "params": [10, 8], "filters_removed": 4, "top1": 49.0}
    )
    return {"top1": 50.0, "network": found, "removal": removal}


def test_the_table_says_what_is_missing_and_how_to_go_on() -> None:
    from ablation.page import page
    from ablation.run import DEFAULT, NONE, cells, grid

    nothing = page({}, {})
    assert f"0 of {len(cells())} cells are run" in nothing and f"`{cells()[0].name}`" in nothing
    assert "Not run: it wants a GPU" in nothing and "benchmarks/ablation/run.py --full" in nothing
    part = page(
        {NONE: record(), DEFAULT: record(flow_gradient=0.5), replace(NONE, seed=1): record(silent_channels=5)}, {}
    )
    rows = part.partition("#### The grid")[2].partition("####")[0].strip().splitlines()
    assert len(rows) == 2 + len(grid()) and sum("not run yet" in row for row in rows) == len(grid()) - 2
    assert rows[2] == "| none | - | - | - | 0.0005 | 0 | 50.00 | 1.500 | 0.50 | 4 of 100 | 0 | 3 | 25.00 |"
    assert (
        "| no penalty | 0, 1 (2 not run yet) | 50.00 ± 0.00 | 1.500 ± 0.000 | 4.0 ± 0.0 | 0.0 ± 0.0 | 4.0 ± 1.4 |"
        in part
    )
    assert "| none-seed0 | 0.1 | 100 | 4 | 50.00 | nothing | nothing | 10.00 %, 20.00 %, 4; 49.00 |" in part
    assert "Nothing is dead, and nothing leaves: none-seed0 at 0.01" in part


def test_results_that_are_no_cells_end_the_program(tmp_path: Path) -> None:
    from ablation.page import records_in
    from ablation.run import FULL, NONE, SHORT

    (tmp_path / f"{NONE.name}.json").write_text(json.dumps({"setting": SHORT.described(), "top1": 1.0}))
    assert [cell.name for cell in records_in(tmp_path, SHORT)] == [NONE.name]
    with pytest.raises(SystemExit, match="no cell"):
        records_in(tmp_path, FULL)
