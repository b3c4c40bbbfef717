"""``flowprune sensitivity``: a page, a file and a table; bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flowprune.artifacts import load, save
from flowprune.cli import main
from flowprune.models import create
from flowprune.training import TrainingSettings, load_data, train

OPTIONS = ["--model-option", "in_channels=1", "--model-option", "width=4"]


def test_the_scan_of_an_artifact_says_what_its_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = create("vgg6", in_channels=1, width=6)
    train(model, load_data("digits"), TrainingSettings(epochs=2, batch_size=64, augmentation=None), progress=False)
    save(model, tmp_path / "model.fp")
    page = tmp_path / "map.html"
    arguments = [
        "sensitivity",
        str(tmp_path / "model.fp"),
        "--data",
        "digits",
        "--shares",
        "0.25,0.75",
        "--images",
        "200",
    ]
    assert main([*arguments, "--drop", "3", "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "map.json").read_text())
    assert found["images"] == 200 and found["split"] == "train" and found["shares"] == [0.25, 0.75]
    assert [row["groups"] for row in found["rows"]] == [
        [f"features.conv{n}"] for n in ("1_1", "1_2", "2_1", "2_2", "3_1")
    ]
    for row in found["rows"]:
        assert row["groups"][0] in printed and row["groups"][0] in page.read_text()
        # At least two channels stay in any dimension.
        assert [point["removed"] for point in row["points"]] == [
            (row["channels"] + 2) // 4,
            min(3 * row["channels"] // 4, row["channels"] - 2),
        ]
        assert 0 <= row["points"][1]["accuracy"] <= 100
    assert found["rows"][0]["points"][1]["accuracy"] < found["accuracy"]
    assert "if each group alone may cost 3 points" in printed
    asked = [line.split()[1] for line in printed.splitlines() if line.startswith("  --channels-of")]
    # what is printed is what was measured, to the last digit
    assert {name: float(share) for name, share in (one.split("=") for one in asked)} == found["allocation"]["channels"]
    options = [part for one in asked for part in ("--channels-of", one)]
    small = tmp_path / "small.fp"
    model_file = str(tmp_path / "model.fp")
    assert main(["prune", model_file, "--importance", "l2", "--largest-cut", "1", *options, "--out", str(small)]) == 0
    capsys.readouterr()
    left = load(small)
    for row in found["rows"]:
        allowed = [point["removed"] for point in row["points"] if point["accuracy"] >= found["accuracy"] - 3]
        first_bad = next(
            (n for n, p in enumerate(row["points"]) if p["accuracy"] < found["accuracy"] - 3), len(row["points"])
        )
        assert left.get_submodule(row["groups"][0]).out_channels == row["channels"] - max([0, *allowed[:first_bad]])
    assert main([*arguments, "--out", str(page)]) == 2 and "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shares", "0.5,1"], "--shares"),
        (["--split", "both"], "'train', 'test'"),
        (["--drop", "-1"], "--drop"),
        (["--importance", "l22"], "did you mean 'l2'?"),
        (["--data", "digit"], "did you mean 'digits'?"),
        (["--model-option", "in_channels=3"], "does not run on an image"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    arguments = ["sensitivity", "resnet8", *OPTIONS, "--data", "digits", "--out", str(tmp_path / "map.html"), *more]
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and not list(tmp_path.iterdir())
