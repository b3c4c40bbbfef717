"""Bad input through the command: one line that helps, a non-zero exit, nothing lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from flowprune.artifacts import save
from flowprune.models import create

Refused = Callable[..., str]


def test_an_unknown_model_names_the_nearest(refused: Refused) -> None:
    assert "did you mean 'resnet56'?" in refused("prune", "resnt56", "--macs", 0.5, "--out", "a.fp")


def test_an_unknown_importance_names_the_nearest(refused: Refused) -> None:
    line = refused(
        *("prune", "resnet8", "--macs", 0.5, "--input", "3x16x16", "--out", "a.fp"), "--importance", "nuclear_nrm"
    )
    assert "did you mean 'nuclear_norm'?" in line


def test_an_unknown_key_in_a_recipe_names_the_nearest(refused: Refused, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("network: resnet8\ndata: {name: digits}\ntraining: {epocs: 3}\n")
    line = refused("run", recipe, "--out", "out")
    assert "'epocs'" in line and "did you mean 'epochs'?" in line


def test_a_missing_data_folder_is_named(refused: Refused, tmp_path: Path) -> None:
    line = refused("run", "--set", "data={name: cifar10}", "--out", "out", "--data-dir", tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in line and "--data-dir" in line


def test_a_half_unpacked_data_folder_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    line = refused("run", "--set", "data={name: cifar10}", "--out", "out", FLOWPRUNE_DATA=str(tmp_path))
    assert "half there" in line and "test_batch" in line


def test_a_budget_that_cannot_be_met_is_found_before_training(refused: Refused) -> None:
    line = refused("run", "--set", "pruning.budgets.0={macs: 1K}", "--set", "training.epochs=10000", "--out", "out")
    assert "macs" in line


def test_a_model_of_nan_is_refused(refused: Refused, tmp_path: Path) -> None:
    model = create("resnet8", width=4)
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] = torch.nan
    save(model, tmp_path / "nan.fp")
    line = refused("prune", tmp_path / "nan.fp", "--macs", 0.5, "--input", "3x16x16", "--out", "a.fp")
    assert "layer2.0.conv1.weight" in line and "NaN" in line


@pytest.mark.parametrize(
    ("builder", "arguments", "said"),
    [
        ("lazy", ("prune", "--macs", 0.5, "--importance", "l2", "--out", "a.fp"), "0 is a LazyConv2d"),
        ("nowhere", ("explain",), "0.weight is on the meta device"),
    ],
)
def test_a_model_without_numbers_is_refused(
    builder: str, arguments: tuple[object, ...], said: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "unready.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def lazy():\n    return nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 2, 3))\n"
        "def nowhere():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)).to('meta')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, *more = arguments
    assert said in refused(command, f"unready:{builder}", "--input", "3x8x8", *more, PYTHONPATH=path)


def test_a_corrupt_artifact_is_refused(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "broken.fp"
    save(create("resnet8", width=4), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refused("measure", path)


def test_a_foreign_artifact_is_refused(refused: Refused, tmp_path: Path) -> None:
    torch.save(create("resnet8", width=4).state_dict(), tmp_path / "weights.fp")
    assert "no artifact" in refused("export", tmp_path / "weights.fp", "a.onnx")


def test_a_folder_that_is_not_empty_is_kept(refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "work" / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("the only copy")
    assert "not empty" in refused("run", "--out", "out")
    assert "choose another folder" in refused("run", "--out", "out", "--overwrite")
    assert (out / "thesis.txt").read_text() == "the only copy"


def test_a_wrong_option_is_one_line_too(refused: Refused) -> None:
    assert "prune" in refused("prun")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("prune resnet8 --out a.fp --input 3x16x16", "exactly one budget"),
        ("prune resnet8 --macs 1.5 --out a.fp --input 3x16x16", "macs=1.5"),
        ("prune resnet8 --macs 1000 --out a.fp --input 3x16x16", "1,000 macs were asked for"),
        ("prune resnet8 --macs 1e3 --out a.fp --input 3x16x16", "1,000 macs were asked for"),
        (
            "prune resnet8 --macs 0.5 --out a.fp --data digits --model-option in_channels=1 --steps 2 --step-lr -1",
            "between --steps: lr: Input should be greater than 0",
        ),
        ("explain resnet8 --input 3x100000000x100000000", "memory is not enough"),
        ("sensitivity resnet8 --data digits --out a.json", "name it like page.html"),
        ("toy --out a.png", "name it like page.html"),
        ("prune resnet8 --latency 5 --out a.fp --input 3x16x16", 'a time like "4ms"'),
        ("prune resnet8 --threshold 0.01 --importance l3 --out a.fp --input 3x16x16", "did you mean 'l2'?"),
        ("prune resnet8 --macs lots --out a.fp --input 3x16x16", "lots"),
        ("prune torchvision:r3d_18 --macs 0.5 --out a.fp", "--input"),
        ("prune resnet8 --macs 0.5 --out a.fp --input 3by3", "3by3"),
        ("prune resnet8 --macs 0.5 --out a.fp --input 1x16x16", "[1, 16, 16]"),
        ("prune resnet8 --macs 0.5 --out no/where/a.fp --input 3x16x16", "no folder"),
        ("prune missing.fp --macs 0.5 --out a.fp", "no artifact missing.fp"),
        (
            "prune resnet8 --macs 0.5 --out a.fp --importance nuclear_norm --input 3x16x16",
            "--data",
        ),
        (
            "prune resnet8 --macs 0.5 --out a.fp --input 3x16x16 --importance-option normalise=l2",
            "did you mean 'normalize'?",
        ),
        ("prune resnet8 --macs 0.5 --out a.fp --input 3x16x16 --importance-option l2", "key=value"),
        ("prune resnet8 --macs 0.5 --out a.fp --input 3x16x16 --ignore layer9", "layer9"),
        ("prune resnet8 --macs 0.5 --out a.fp --input 3x16x16 --model-option depth=3", "depth"),
        ("prune resnet8 --macs 0.5 --out a.fp --input 3x16x16 --scope everywhere", "everywhere"),
        ("prune resnet8 --macs 0.5 --out a.fp --data cifar11", "did you mean 'cifar10'?"),
        ("prune resnet8 --macs 0.5 --out a.fp --data digits --data-option sise=8", "did you mean 'size'?"),
        (
            "prune resnet8 --macs 0.5 --out a.fp --data digits",
            "does not run on an image of shape [1, 16, 16]",
        ),
        (
            "prune resnet8 --macs 0.5 --out a.fp --data digits --data-option size=large",
            "size: Input should be a valid integer",
        ),
        (
            "prune resnet8 --macs 0.5 --out a.fp --data digits --data-option workers=-1",
            "workers: Input should be greater",
        ),
        (
            "prune resnet8 --macs 0.5 --out a.fp --data digits --data-option normalize=[[0.5],[0.5,1]]",
            "1 mean and 2 deviations",
        ),
        ("prune resnet8 --macs 0.5 --out a.fp --input 3x16x16 --seed -1", "--seed"),
        ("evaluate resnet8 --data digits --model-option in_channels=1 --model-option classes=3", "needs [images, 10]"),
        (
            "finetune resnet8 --out a.fp --data digits --model-option in_channels=1 --model-option classes=3",
            "needs [images, 10]",
        ),
        (
            "sensitivity resnet8 --data digits --model-option in_channels=1 --model-option classes=3",
            "needs [images, 10]",
        ),
        ("export resnet8 --out . --overwrite --input 3x16x16", "it is a folder"),
        ("finetune resnet8 --out . --overwrite --data digits", "it is a folder"),
        ("evaluate resnet8", "--data"),
        ("measure resnet8 --weights missing.th --input 3x16x16", "missing.th"),
        ("finetune missing.fp --out a.fp", "missing.fp"),
        ("finetune missing.fp --out a.fp --lr -1", "lr"),
        ("finetune missing.fp --out a.fp --set momentun=0.5", "did you mean 'momentum'?"),
        ("report nowhere", "nowhere"),
        ("run missing.yaml", "missing.yaml"),
        ("run --resume --overwrite", "one of them"),
        ("run --set networks.0.name=resnet9", "did you mean 'resnet"),
        ("run --set networks.0.options.in_channels=3", "in_channels"),
        ("run --set pruning.importance.name=l3", "did you mean 'l"),
        (["run", "--set", "pruning.importance={name: l2, options: {agregation: sum}}"], "did you mean 'aggregation'?"),
        ("run --set networks.0.classes=3", "classes"),
    ],
)
def test_every_other_bad_input_is_one_line_as_well(
    arguments: list[str] | str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process, for speed: what the console script calls."""
    from flowprune.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWPRUNE_DATA", raising=False)
    assert main(arguments.split() if isinstance(arguments, str) else arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert said in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def build(:", "SyntaxError"),
        ("import os\nos.environ['NOT_THERE']", "KeyError"),
        ("import not_installed", "No module named 'not_installed'"),
        ("def build():\n    return open('not there')", "FileNotFoundError"),
        ("def build():\n    return undefined", "NameError: name 'undefined'"),
        ("def biuld(): ...", "did you mean 'biuld'?"),
    ],
)
def test_what_fails_in_a_module_of_the_users_own_is_named(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flowprune.cli import main

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "architecture_of_mine.py").write_text(code)
    monkeypatch.delitem(sys.modules, "architecture_of_mine", raising=False)
    assert main(["measure", "architecture_of_mine:build", "--input", "3x16x16"]) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "architecture_of_mine" in line and said in line
    sys.modules.pop("architecture_of_mine", None)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 0.5, 0.99])
@pytest.mark.parametrize("command", ["measure {} --input 3x16x16", "finetune {} --out a.fp --data digits"])
def test_an_artifact_cut_off_anywhere_is_refused(
    length: float, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flowprune.cli import main

    monkeypatch.chdir(tmp_path)
    save(create("resnet8", width=4), "whole.fp")
    content = Path("whole.fp").read_bytes()
    Path("cut.fp").write_bytes(content[: int(length * len(content)) if 0 < length < 1 else int(length)])
    assert main(command.format("cut.fp").split()) == 2
    line = capfd.readouterr().err
    assert line.startswith("error: cannot read cut.fp: it is damaged, cut off") and line.count("\n") == 1


def test_a_read_only_folder_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the system says that it is: who may do everything would not be refused."""
    from flowprune.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for arguments in ("prune resnet8 --macs 0.5 --input 3x16x16 --out a.fp", "finetune missing.fp --out a.fp"):
        assert main(arguments.split()) == 2
        assert "read-only" in capfd.readouterr().err


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flowprune.artifacts import saving
    from flowprune.cli import main

    def full(*given: object, **more: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saving, "save_file", full)
    assert (
        main(["prune", "resnet8", "--model-option", "width=4", "--macs", "0.5", "--input", "3x16x16", "--out", "a.fp"])
        == 2
    )
    captured = capfd.readouterr()
    assert captured.err == "error: cannot write a.fp: No space left on device (os error 28)\n"
    assert not list(tmp_path.iterdir())


def test_a_model_that_knows_its_classes_need_not_be_told_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe hands the data set's number of classes on; a builder of the user's own may have no use for it."""
    from flowprune.studies.pipeline.job import Job
    from flowprune.studies.recipe import Recipe
    from flowprune.training import load_data

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "network_of_ten.py").write_text(
        "from torch import nn\n\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))\n"
    )
    recipe = Recipe.model_validate({"network": "network_of_ten:build", "data": {"name": "digits"}})
    job = Job(recipe, load_data("digits", subset=10), torch.device("cpu"))
    job.check()
    assert job.build(recipe.networks[0])(job.example()).shape == (1, 10)


def test_an_unforeseen_error_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flowprune.cli import main
    from flowprune.studies import recipe

    def broken(*given: object) -> None:
        raise ZeroDivisionError("over\nlines")

    monkeypatch.setattr(recipe, "load_recipe", broken)
    assert main(["run"]) == 1
    assert capfd.readouterr().err.startswith("error: ZeroDivisionError: over lines (")
