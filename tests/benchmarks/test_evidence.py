"""Studies made of cells: who chooses and who reports, when a difference counts, and that nothing finished is done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flowprune.training.loop as loop

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
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
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
