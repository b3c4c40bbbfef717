"""``flowprune compress`` as a person runs it: interrupted and gone on with, its files, what it refuses and warns of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import flowprune as fp
from flowprune.artifacts import read_header, save
from flowprune.cli import main
from flowprune.models import create
from flowprune.training import TrainingSettings, evaluate, load_data, loop, train

OPTIONS = [
    *("--macs", "50%", "--importance", "l2", "--rounds", "1", "--epochs", "6", "--set", "batch_size=32"),
    *("--validation", "test", "--validation-images", "200", "--set", "augmentation=null", "--set", "precision=float32"),
]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that reads digits, as an artifact that knows its data."""
    torch.manual_seed(0)
    data = load_data("digits", size=8)
    model = create("vgg6", in_channels=1, width=4)
    settings = TrainingSettings(epochs=3, batch_size=32, augmentation=None, precision="float32")
    train(model, data, settings, progress=False)
    path = tmp_path_factory.mktemp("trained") / "dense.fp"
    save(model, path, notes={**data.notes(), "data": {"name": "digits", "size": 8}})
    return path


def test_an_interrupted_compression_goes_on_and_ends_the_same(
    dense: Path,
    tmp_path: Path,
    said: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped, write = tmp_path / "stopped", loop.append_metrics

    def interrupted(folder: Path, epoch: dict[str, Any]) -> None:
        write(folder, epoch)
        if epoch["epoch"] == 2:
            raise KeyboardInterrupt

    again = ["compress", dense, "--out", stopped, *OPTIONS]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "append_metrics", interrupted)
        assert main([str(word) for word in (*again, "--no-onnx", "--overwrite")]) == 130
    line = capfd.readouterr().err.splitlines()[-1]
    assert "--resume` goes on where it stopped" in line, line
    assert "--overwrite" not in line  # it would throw away what there is to go on with
    assert main([str(word) for word in again]) == 2 and "--resume goes on" in capfd.readouterr().err
    printed = said(*again, "--no-onnx", "--resume", "--quiet")
    assert "times smaller" in printed and "An image takes" in printed and str(stopped / "report.html") in printed

    found = json.loads(said("compress", dense, "--out", "whole", *OPTIONS, "--quiet", "--json"))
    small, given = fp.load("whole/model.fp"), fp.load(dense)
    resumed = fp.load(stopped / "model.fp").state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in small.state_dict().items())

    x = load_data("digits", size=8).example_input()
    costs = [fp.measure(model, x).macs for model in (given, small)]
    assert found["cost"]["macs"] == costs and costs[1] <= costs[0] / 2
    tested, chosen_by = found["test"], found["trials"]["macs=0.5"]["validation"]["right"]
    assert tested["drop"]["images"] == 300 and len(chosen_by) == 200  # the two never meet
    everything = evaluate(small, load_data("digits", size=8)).top1
    assert 3 * tested["after"] + chosen_by.count("1") == pytest.approx(5 * everything)
    assert read_header("whole/model.fp").notes["top1"] == tested["after"]
    assert [row["name"] for row in found["speed"]] == ["before", "after"]
    page = Path("whole/report.html").read_text()
    assert "What each group costs" in page and "times less arithmetic" in page
    assert ("model.onnx" in found["files"]) == Path("whole/model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--max-drop 0.5", "by 259 validation images"),
        ("--macs 50% --validation-images 5000", "cannot be taken from the 1297 training images"),
        ("--macs 0.001 --importance l2", "macs=0.001"),
        ("--macs 50% --data pictures", "pictures lie in pictures itself"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: str,
    complaint: str,
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    (Path("pictures") / "cat.png").write_bytes(b"")
    assert main(["compress", str(dense), "--out", "out", "--quiet", *words.split()]) == 2
    *warned, line = capfd.readouterr().err.splitlines()
    assert complaint in line and all(one.startswith("warning: the model may have been trained") for one in warned)


def test_a_folder_of_pictures_is_compressed_to_widths_that_the_machine_likes(
    flowprune: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPRUNE_CACHE", str(tmp_path))  # no table of widths was measured there
    home = tmp_path / "work"
    colours = {"blue": (20, 40, 220), "green": (20, 200, 60), "red": (230, 30, 20)}
    for name, colour in colours.items():
        for number in range(12):
            folder = home / "shapes" / name
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.new("RGB", (12, 12), (90 + number, 90, 90))
            picture.paste(colour, (number % 5, 2, number % 5 + 5, 8))
            picture.save(folder / f"{number}.png")
    size, short = ("--data-option", "size=12"), ("--set", "augmentation=null", "--set", "precision=float32")
    network = ("vgg6", "--model-option", "classes=3", "--model-option", "width=8")
    asked = ("--data", "imagefolder", "--data-dir", "shapes", *size, "--epochs", 8, "--lr", 0.05)
    trained = flowprune("finetune", *network, *asked, *short, "--out", "dense.fp")
    assert trained.returncode == 0, trained
    cut = ("--macs", "60%", "--round-to", "auto", "--importance", "l2", "--rounds", 1, "--epochs", 2)
    done = flowprune("compress", "dense.fp", "--data", "shapes", *size, *cut, *short, "--quiet", "--out", "small")
    assert done.returncode == 0, done
    assert {path.name for path in (home / "small").iterdir()} >= {
        "model.fp",
        "model.onnx",
        "report.html",
        "compress.json",
    }
    small, dense = fp.load(home / "small" / "model.fp"), fp.load(home / "dense.fp")
    x = torch.zeros(1, 3, 12, 12)
    assert fp.measure(small, x).macs <= 0.6 * fp.measure(dense, x).macs
    widths = [
        (one.out_channels, whole.out_channels)
        for one, whole in zip(convolutions(small), convolutions(dense), strict=True)
    ]
    assert all(width == before or width % 8 == 0 for width, before in widths), widths
    named = flowprune("predict", "small/model.onnx", "shapes/red/11.png", "--json")
    assert named.returncode == 0 and set(colours) & set(named.stdout.replace('"', " ").split()), named


def convolutions(model: torch.nn.Module) -> list[torch.nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
