"""Further training that loses nothing, accuracies before and after, and what a network sees in pictures."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from installed_command import forked, wait_until
from PIL import Image

import flowprune as fp
from flowprune.artifacts import read_header, save
from flowprune.cli import main
from flowprune.errors import FlowpruneWarning, ModelError
from flowprune.methods.recovery.distillation import Distillation
from flowprune.models import create
from flowprune.training import TrainingSettings, evaluate, load_data, train
from flowprune.training.usual_settings import usual

Said = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that reads digits, as an artifact that knows its data."""
    torch.manual_seed(0)
    data = load_data("digits")
    model = create("resnet8", in_channels=1, width=8)
    train(
        model, data, TrainingSettings(epochs=4, batch_size=32, augmentation=None, precision="float32"), progress=False
    )
    path = tmp_path_factory.mktemp("trained") / "dense.fp"
    save(model, path, notes={**data.notes(), "data": {"name": "digits"}})
    return path


def test_one_epoch_by_default_settings_leaves_a_trained_network_what_it_is(trained: Path, said: Said) -> None:
    found = json.loads(said("finetune", trained, "--epochs", 1, "--out", "tuned.fp", "--json"))
    assert found["top1_before"] == pytest.approx(evaluate(fp.load(trained), load_data("digits")).top1)
    assert found["top1"] > found["top1_before"] - 3 and found["top1_before"] > 90
    assert read_header("tuned.fp").notes["top1"] == found["top1"]
    assert not Path("tuned.fp.training").exists()


def test_a_network_known_by_name_is_trained_further(said: Said) -> None:
    options = ("--model-option", "in_channels=1", "--model-option", "width=4", "--data", "digits")
    text = said("finetune", "vgg6", *options, "--data-option", "subset=64", "--epochs", 1, "--out", "tuned.fp")
    assert "after 1 epoch in" in text and "(before: " in text and "500 test images of digits" in text
    assert read_header("tuned.fp").notes["class_names"] == list("0123456789")


def test_a_teacher_is_listened_to(trained: Path, said: Said) -> None:
    """What the command trains is what the library trains with the same distillation."""
    save(create("vgg6", in_channels=1, width=2), "small.fp")
    words = ["--epochs", 1, "--data-option", "subset=64", "--batch-size", 32, "--set", "precision=float32"]
    teaching = ("--teacher", trained, "--teacher-option", "temperature=9")
    said("finetune", "small.fp", "--data", "digits", *words, *teaching, "--out", "taught.fp")
    small, teacher = fp.load("small.fp"), Distillation(temperature=9)
    teacher.prepare(small, fp.load(trained), SimpleNamespace(removed={}), ())
    settings = TrainingSettings(**usual(1) | {"batch_size": 32, "lr": 0.0025, "precision": "float32"})
    train(small, load_data("digits", subset=64), settings, regularizer=teacher, progress=False)
    taught = fp.load("taught.fp").state_dict()
    assert all(torch.equal(taught[name], tensor) for name, tensor in small.state_dict().items())


def test_an_interrupted_fine_tuning_goes_on_and_ends_the_same(trained: Path, tmp_path: Path, said: Said) -> None:
    options = ["--epochs", "8", "--data-option", "subset=128", "--batch-size", "32", "--set", "precision=float32"]
    process = forked("finetune", trained, "--out", tmp_path / "tuned.fp", *options)
    metrics = tmp_path / "tuned.fp.training" / "metrics.jsonl"
    wait_until(metrics, process)
    while metrics.exists() and not metrics.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    line = process.communicate(timeout=600)[1].splitlines()[-1]
    assert process.returncode == 130 and "--resume` goes on where it stopped" in line, line
    again = ["finetune", trained, "--out", tmp_path / "tuned.fp", *options]
    assert main([str(word) for word in again]) == 2  # what is under way is not thrown away
    said(*again, "--resume")
    said("finetune", trained, "--out", "whole.fp", *options)
    resumed, whole = fp.load(tmp_path / "tuned.fp").state_dict(), fp.load("whole.fp").state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_diverging_training_is_said_within_its_first_epoch(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"finetune {trained} --epochs 1 --lr 30 --batch-size 16 --set warmup_epochs=0 --set precision=float32 --out a.fp"
    main(words.split())
    assert "the training diverges: " in capfd.readouterr().err


def test_the_watch_over_a_training_is_silent_while_it_learns_and_stops_at_no_number() -> None:
    from flowprune.training.divergence import STEPS, DivergenceWatch

    def feed(watch: DivergenceWatch, loss: float) -> None:
        for _ in range(STEPS):
            assert watch.penalty(torch.tensor(loss)) == 0

    watch = DivergenceWatch(0.2, 10)
    feed(watch, 2.3)
    with pytest.warns(FlowpruneWarning, match="the loss was 3, before the training 0.2"):
        feed(watch, 3.0)
    feed(watch, 3.0)  # said once
    feed(DivergenceWatch(4.0, 10), 7.0)  # a network right after a cut begins badly
    with pytest.raises(ModelError, match="no number"):
        feed(watch, float("nan"))


def test_prune_says_the_accuracy_before_and_after(trained: Path, said: Said) -> None:
    found = json.loads(said("prune", trained, "--macs", "50%", "--out", "small.fp", "--json"))
    data = load_data("digits")
    assert found["top1"] == [evaluate(fp.load(model), data).top1 for model in (trained, "small.fp")]
    text = said("prune", trained, "--macs", "50%", "--out", "small.fp", "--overwrite")
    assert (
        f"top-1 {found['top1'][0]:.2f} % before, {found['top1'][1]:.2f} % right after the cut; 500 test images" in text
    )
    assert "top-1" not in said("prune", trained, "--macs", "50%", "--no-accuracy", "--out", "small.fp", "--overwrite")


def test_a_criterion_of_weights_asks_for_no_data(
    trained: Path, tmp_path: Path, said: Said, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = {**read_header(trained).notes, "data": {"name": "cifar10"}}
    save(fp.load(trained), tmp_path / "far.fp", notes=notes)
    assert "asked: macs=0.5" in said("prune", "far.fp", "--macs", 0.5, "--importance", "l2", "--out", "small.fp")
    assert main(["prune", "far.fp", "--macs", "0.5", "--importance", "nuclear_norm", "--out", "b.fp"]) == 2
    assert "cifar10: no data folder given" in capfd.readouterr().err


def digit(position: int) -> tuple[Image.Image, int]:
    split = load_data("digits").test
    ((pixels, target),) = split.batches([torch.tensor([position])], torch.device("cpu"))
    return Image.fromarray(pixels[0, 0].numpy()), int(target)


def test_an_artifact_and_its_onnx_file_name_what_is_in_pictures(trained: Path, said: Said) -> None:
    pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
    said("export", trained, "--out", "net.onnx")
    Path("pictures").mkdir()
    for position in range(3):
        digit(position)[0].save(f"pictures/{position}.png")
    found = json.loads(said("predict", trained, "pictures", "--top", 10, "--json"))
    with torch.no_grad():
        x = load_data("digits").example_input(3)
        chances = fp.load(trained).eval()(x).softmax(1)
    for position in range(3):
        named = found[f"pictures/{position}.png"]
        assert next(iter(named)) == str(int(chances[position].argmax()))
        assert torch.allclose(torch.tensor([named[str(name)] for name in range(10)]), chances[position], atol=1e-3)
    theirs = json.loads(said("predict", "net.onnx", "pictures", "--top", 10, "--json"))
    for file, named in found.items():
        assert {name: pytest.approx(chance, abs=1e-4) for name, chance in named.items()} == theirs[file]
    line = said("predict", "net.onnx", "pictures/1.png", "--top", 1)
    assert line.startswith("pictures/1.png: ") and line.endswith(" %\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("predict {} nowhere.png", "no picture nowhere.png"),
        ("predict {} {}", "cannot read the picture"),
        ("predict resnet8 {} --input 3x8x8", "--normalize imagenet"),
        ("predict broken.onnx {}", "cannot read broken.onnx"),
        ("finetune {} --out a.fp --tracker tensorbord", "did you mean 'tensorboard'?"),
        ("finetune {} --out a.fp --teacher-option temperature=2", "name one with --teacher"),
        ("finetune {} --out a.fp --teacher {} --teacher-option temperatur=2", "did you mean 'temperature'?"),
        (
            "finetune {} --out a.fp --teacher vgg6 --model-option in_channels=1 --model-option classes=3",
            "the 10 classes",
        ),
        ("evaluate {} --device gpu", "use cpu, cuda, cuda:1 or mps"),
        ("evaluate {} --threads 0", "--threads"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: str,
    complaint: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.onnx").write_bytes(b"not ONNX")
    assert main(words.replace("{}", str(trained)).split()) == 2
    line = capfd.readouterr().err
    assert complaint in line and line.count("\n") == 1


def test_a_loader_of_ones_own_is_evaluated_as_the_data_set_is(trained: Path) -> None:
    data = load_data("digits")
    pairs = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*data.batches("test"), strict=True)))
    loader = torch.utils.data.DataLoader(pairs, batch_size=77)
    model = fp.load(trained)
    modes = [module.training for module in model.modules()]
    by_loader, by_data = evaluate(model, loader), evaluate(model, data)
    assert (by_loader.top1, by_loader.images) == (by_data.top1, by_data.images)
    assert by_loader.loss == pytest.approx(by_data.loss, abs=1e-5)
    assert modes == [module.training for module in model.modules()]
    with pytest.raises(fp.FlowpruneError, match="no image"):
        evaluate(model, [])


def test_a_tracker_is_given_every_epoch(trained: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    heard: list[Any] = []

    class Notebook(tracking.GeneralTracker):
        name, requires_logging_directory, main_process_only = "notebook", True, False

        def __init__(self, run_name: str, logging_dir: str) -> None:
            heard.append(("run", run_name))

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            heard.append(("epochs", values["epochs"]))

        def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
            heard.append((step, sorted(values)))

        def finish(self) -> None:
            heard.append("finished")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setattr(tracking, "_available_trackers", ["notebook"])
    said("finetune", trained, "--epochs", 2, "--data-option", "subset=32", "--tracker", "notebook", "--out", "tuned.fp")
    assert heard[:2] == [("run", "tuned"), ("epochs", 2)] and heard[-1] == "finished"
    assert [entry[0] for entry in heard[2:-1]] == [1, 2] and "task_loss" in heard[2][1]


def test_threads_are_those_asked_for(said: Said) -> None:
    before = torch.get_num_threads()
    try:
        said(
            "evaluate", "vgg6", "--model-option", "in_channels=1", "--data", "digits", "--threads", 2, "--device", "cpu"
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_notes_of_a_run_name_the_classes() -> None:
    data = load_data("digits")
    assert data.notes()["class_names"] == list("0123456789")
    assert data.notes()["pixels"] == {"mean": [0.3059], "deviation": [0.3189]}
