"""Studies made of cells: who chooses and who reports, when a difference counts, and that nothing finished is done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import flowprune.training.loop as loop
from flowprune import models

TOY = [
    *("--threads", "1"),
    *("--set", "network={name: resnet8, options: {in_channels: 1, width: 4}}"),
    *("--set", "data={name: digits, subset: 64}"),
    *("--set", "training.batch_size=16"),
    *("--set", "choosing=100"),
]
"""A few digits instead of CIFAR-10, a small network instead of a ResNet-20."""


def folders(path: Path) -> list[str]:
    return ["--out", str(path / "out"), "--work", str(path / "work")]


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.5, 0.6, 0.7], "pays"),
        ([-0.5, -0.6, -0.7], "loses"),
        ([0.2, 0.21, 0.22], "undecided"),  # certain, and too small
        ([0.3, 0.3, 0.3], "undecided"),  # not beyond 0.3 points
        ([0.2, 1.0, 1.8], "undecided"),  # the mean is 1.25 sample standard deviations
        ([0.1, 0.8, 0.9], "undecided"),  # 1.4 of the sample's, 1.7 of the population's
        ([0.5, 0.6], "not run yet"),
    ],
)
def test_a_difference_counts_beyond_its_spread_and_beyond_the_smallest_that_matters(
    differences: list[float], said: str
) -> None:
    from evidence.verdict import verdict

    assert verdict(differences) == said


@pytest.mark.parametrize("source", ["test", "training"])
def test_images_that_choose_neither_train_nor_report(source: str) -> None:
    from evidence.images import Images

    images = Images.of({"name": "digits"}, None, 100, source)
    parts = [images.data.train, images.data.test, images.chooses.test]
    positions = [set(part.positions.tolist()) for part in parts if hasattr(part, "positions")]
    if source == "test":
        assert positions == [set(range(100, 500)), set(range(100))]
    else:
        trained, reported, chosen = positions
        assert len(chosen) == 100 and not chosen & trained and len(chosen | trained) == 1297
        assert reported == set(range(100, 500))


def test_a_cell_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transfer.run import main

    first, second = "plain-05epochs-seed0", "percentage-20-05epochs-seed0"
    assert main([*TOY, *folders(tmp_path / "whole"), "--most", "2"]) == 0
    assert {path.stem for path in (tmp_path / "whole" / "out").iterdir()} == {first, second}

    original, written = loop.append_metrics, 0

    def stopped(folder: Path, record: dict[str, Any]) -> None:
        nonlocal written
        written += 1
        original(folder, record)
        if written == 2:
            raise KeyboardInterrupt  # as a signal would, between two epochs

    monkeypatch.setattr(loop, "append_metrics", stopped)
    with pytest.raises(KeyboardInterrupt):
        main([*TOY, *folders(tmp_path / "stopped"), "--only", second])
    main([*TOY, *folders(tmp_path / "stopped"), "--list"])
    assert f"{second}: 2 min; 2 epochs of it are done" in capsys.readouterr().out
    assert main([*TOY, *folders(tmp_path / "stopped"), "--only", second]) == 0
    assert written == 5
    results = [json.loads((tmp_path / one / "out" / f"{second}.json").read_text()) for one in ("whole", "stopped")]
    assert {**results[0], "seconds": 0, "passes": 0} == {**results[1], "seconds": 0, "passes": 0}
    assert results[0]["coefficients"]["gradient"] > 0 and results[0]["top1"].keys() == {"choosing", "reporting"}

    assert (
        main([*TOY, *folders(tmp_path / "whole"), "--only", second]) == 0 and written == 5
    )  # nothing was trained again
    main([*TOY, *folders(tmp_path / "whole"), "--list"])
    said = capsys.readouterr().out.splitlines()
    assert f"{first}:" not in "".join(said) and said[-1].startswith("later: ") and "61 open cells" in said[-2]
    with pytest.raises(SystemExit, match="another setting"):
        main([*TOY, "--set", "choosing=50", *folders(tmp_path / "whole"), "--list"])


def test_a_unit_is_adopted_by_the_rule_of_its_page() -> None:
    from transfer.page import decision
    from transfer.run import EPOCHS, ROWS

    def dead(shares: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
        return {
            row.cell(epochs, 0).name: {"filters": 100, "dead_by_threshold": {"0.01": count}}
            for row in ROWS
            for epochs, count in zip(EPOCHS, shares.get(row.strength, (0, 0, 0)), strict=True)
        }

    assert "not run yet" in decision({}, "0.01")
    assert "none is adopted; at no strength" in decision(dead({}), "0.01")
    assert "none is adopted; nearest is 9 pull" in decision(dead({"9 pull": (2, 4, 6), "20%": (0, 4, 4)}), "0.01")
    assert "pressure is adopted" in decision(dead({"9 pull": (2, 3, 4), "8 pressure": (5, 6, 7)}), "0.01")


def carried_out(cells: Any, worth: Any) -> dict[str, Any]:
    """Results of all cells of a study, which give each the accuracy that it is ``worth``."""
    known: dict[str, Any] = {}
    while missing := [cell for cell in cells(known) if cell.name not in known]:
        for cell in missing:
            assert all(one.name in known for one in cell.chain[:-1]), "a cell comes before the one it begins with"
            top1 = worth(cell)
            row = {"filters": 100, "dead_filters": 3, "macs": 1000, "params": 10}
            known[cell.name] = {**row, "top1": {"choosing": top1, "reporting": top1 + 1}, "seconds": 1, "passes": 1}
    return known


def test_the_ladder_chooses_by_seed_0_and_judges_by_the_fresh_ones() -> None:
    from ladder.page import conclusion, pairs_of
    from ladder.run import best_form, cells, chosen, later

    def worth(cell: Any) -> float:
        about = {"way": "", "kept": 0, **cell.about}
        if about["stage"] == "cut":
            return {"removal-0.01-energy": 50.0, "fpgm": 60.0}.get(about["way"], 40.0) + 10 * about["kept"]
        found = {"today": 84.0, "relative": 85.0, "group": 87.0, "path": 86.0, "plain": 86.0}[about["form"]]
        found += 0.3 * (about["setting"] in ("300%", "weight decay 0.001"))
        return found + 0.1 * cell.seed * (about["form"] == "group")

    assert best_form({}) is None and "not run yet" in conclusion({})
    known = carried_out(cells, worth)
    assert best_form(known) == "group"
    picked = {form: chosen(form, known) for form in ("group", "plain")}
    assert picked["group"] is not None and picked["group"].setting == "300%"
    assert picked["plain"] is not None and picked["plain"].setting == "weight decay 0.001"
    assert pairs_of("group", known)[0].differences == pytest.approx([1.1, 1.2, 1.3])
    assert conclusion(known).endswith("pays at 60 % of the MACs, pays at 40 % of the MACs.")
    assert [pairs.verdict for pairs in pairs_of("relative", known)] == ["loses", "loses"]
    assert pairs_of("plain", known)[1].differences == [0, 0, 0]  # recovery makes nothing of another cut here
    assert "group-300-seed3-40-removal-0.01-energy-recovered" in known and "group-100-seed1" not in known
    assert "plain-weight-decay-0.001-seed2-60-fpgm-recovered" in known and "plain-as-the-others-seed1" not in known
    assert len(later(known)) == 1


def test_a_rung_of_the_ladder_is_trained_cut_and_recovered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ladder.run import main

    (tmp_path / "weights").mkdir()
    torch.save(models.create("resnet8", in_channels=1, width=4).state_dict(), tmp_path / "weights" / "own.th")
    small = [*TOY, "--set", "data.normalize=digits", "--set", "network.weights=weights/own.th", *folders(tmp_path)]
    small += ["--data-dir", str(tmp_path), "--only", "path-100-seed0*0.01", "--only", "path-100-seed0-60-*"]
    assert main(small) == 0
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert len(results) == 5, "the training is done, too, as the cuts need its network"
    dense, removed = results["path-100-seed0"], results["path-100-seed0-removal-0.01"]
    end = next(one for name, one in results.items() if name.endswith("-recovered"))
    assert 0.5 * dense["macs"] < end["macs"] <= 0.6 * dense["macs"] and removed["macs"] <= dense["macs"]
    assert len(dense["history"]["penalty"].split()) == 6 and len(end["history"]["task_loss"].split()) == 2
    assert main([*small, "--list"]) == 0
    assert "0 open cells" in capsys.readouterr().out


def test_from_scratch_takes_the_form_of_the_ladder_and_reports_on_fresh_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    import from_scratch.run as study
    from from_scratch.page import line, pairs

    monkeypatch.setattr(study, "best_form", lambda known: None)
    assert {cell.about["form"] for cell in study.cells({})} == {"plain"}
    assert "the flow: waits for the ladder to choose a form" in study.later({})
    said = line({}, {})
    assert said.count("not run yet") == 2

    monkeypatch.setattr(study, "best_form", lambda known: "group")
    known = carried_out(study.cells, lambda cell: 85.0 - (cell.about["form"] == "group") + 0.01 * cell.seed)
    assert pairs(known).differences == pytest.approx([-1, -1, -1]) and "from scratch loses at 60 %" in line(known, {})
    fresh = [cell for cell in study.cells(known) if cell.seed > 0]
    assert {cell.seed for cell in fresh} == {1, 2, 3} and len(fresh) == 3 * 2 * 3
    assert max(cell.passes for cell in fresh) == 30 * 45_000 and len(study.later(known)) == 1
