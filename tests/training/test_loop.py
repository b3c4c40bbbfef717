from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from accelerate import PartialState
from import_server import start_method
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from flowprune import models
from flowprune.errors import ArtifactError, ModelError, OutputError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.training import TrainingSettings, evaluate, load_data, train
from flowprune.training.schedule import learning_rate


def settings(**changes: Any) -> TrainingSettings:
    usual = {
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.1,
        "augmentation": {"crop": 1, "flip": False},
        "precision": "float32",
    }
    return TrainingSettings.model_validate({**usual, **changes})


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.create("resnet8", in_channels=1, width=8)


def states_equal(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_digits_are_learned_and_every_epoch_is_written_down(tmp_path: Path) -> None:
    model, data = small(), load_data("digits", size=8)
    result = train(model, data, settings(epochs=5), run_folder=tmp_path, progress=False)
    assert result.top1 > 90
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history and [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert result.top1 == lines[-1]["test_accuracy"]
    assert result.best_top1 == max(line["test_accuracy"] for line in lines)
    assert lines[-1]["task_loss"] < lines[0]["task_loss"] and lines[0]["penalty"] == 0
    assert lines[0]["images_per_second"] > 0
    assert model.training and all(parameter.is_contiguous() for parameter in model.parameters())
    checked = evaluate(model, data)
    assert checked.images == 500 and checked.top1 == pytest.approx(result.top1)
    assert model.training


def test_one_epoch_is_plain_sgd_over_shuffled_batches() -> None:
    data = load_data("digits", subset=100)
    chosen = settings(epochs=1, augmentation=None, schedule="constant", weight_decay=0.01)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    reference = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    reference.load_state_dict(model.state_dict())
    train(model, data, chosen, progress=False)
    ((images, targets),) = data.batches("train")
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    velocity = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for batch in (order[:64], order[64:]):
        loss = functional.cross_entropy(reference(images[batch]), targets[batch])
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient, speed in zip(reference.parameters(), gradients, velocity, strict=True):
                decayed = gradient + 0.01 * parameter
                speed.mul_(0.9).add_(decayed)
                parameter.sub_(0.1 * (decayed + 0.9 * speed))
    for trained, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, atol=1e-6, rtol=1e-5)


def test_same_seed_same_weights_and_the_global_generator_stays_where_it_was() -> None:
    data = load_data("digits", subset=200)
    first, second, other = small(), small(), small()
    state = torch.get_rng_state()
    train(first, data, settings(), progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    train(second, data, settings(), progress=False)
    train(other, data, settings(seed=1), progress=False)
    assert states_equal(first, second) and not states_equal(first, other)


class Pull:
    """A penalty with a state: c times the squared norm of one weight, c growing with every call."""

    def __init__(self, model: nn.Module) -> None:
        self.weight: Tensor = model.linear.weight  # type: ignore[union-attr, assignment]
        self.calls = 0

    def penalty(self, task_loss: Tensor | None = None) -> Tensor:
        assert task_loss is not None and not task_loss.requires_grad
        self.calls += 1
        return 0.01 * self.calls * self.weight.square().sum()

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        self.calls = state["calls"]


def test_penalty_enters_the_loss_and_is_reported() -> None:
    data = load_data("digits", subset=200)
    plain, pulled = small(), small()
    train(plain, data, settings(), progress=False)
    result = train(pulled, data, settings(), regularizer=Pull(pulled), progress=False)
    assert result.history[0]["penalty"] > 0
    assert pulled.linear.weight.norm() < plain.linear.weight.norm()  # type: ignore[union-attr, operator]


def test_feature_flow_trains_and_shortens_the_flow() -> None:
    data = load_data("digits", subset=400)
    lengths = {}
    for name in ("plain", "ffr"):
        model = small()
        flow = FeatureFlow(model, "100%", None)
        train(model, data, settings(epochs=5), regularizer=flow if name == "ffr" else None, progress=False)
        flow.close()
        with FeatureFlow(model, 1.0) as meter:
            model(data.example_input(100))
            lengths[name] = meter.penalty().item()
    assert lengths["ffr"] < 0.7 * lengths["plain"]


@pytest.mark.parametrize("regularized", [False, True])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, regularized: bool) -> None:
    class StopError(Exception):
        pass

    class Bomb(Pull):
        def penalty(self, task_loss: Tensor | None = None) -> Tensor:
            if self.calls == 9:  # in the third epoch of four batches
                raise StopError
            value = super().penalty(task_loss)
            return value if regularized else 0 * value

    class Quiet(Bomb):
        def penalty(self, task_loss: Tensor | None = None) -> Tensor:
            value = Pull.penalty(self, task_loss)
            return value if regularized else 0 * value

    data = load_data("digits", subset=250)
    chosen = settings(epochs=4)
    through, stopped, resumed = small(), small(), small()
    expected = train(through, data, chosen, regularizer=Quiet(through), progress=False)
    with pytest.raises(StopError):
        train(stopped, data, chosen, regularizer=Bomb(stopped), run_folder=tmp_path, progress=False)
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 3)  # an epoch ahead of the checkpoint
    result = train(resumed, data, chosen, regularizer=Quiet(resumed), run_folder=tmp_path, resume=True, progress=False)
    assert states_equal(through, resumed)
    for ours, theirs in zip(result.history, expected.history, strict=True):
        for key in ("task_loss", "penalty", "test_accuracy", "lr"):
            assert ours[key] == theirs[key]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def job(folder: Path, killed_at: int | None) -> None:
    """A training, in a process of its own: to its end, or killed in the middle of a step, counted from 1."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Dropout(0.1), models.create("resnet8", in_channels=1, width=8))
    flow = FeatureFlow(model, "20%", "20%")
    steps, penalty = itertools.count(1), flow.penalty

    def until_killed(*given: Any, **more: Any) -> Tensor:
        if next(steps) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return penalty(*given, **more)

    flow.penalty = until_killed  # type: ignore[method-assign]
    data, augmented = load_data("digits", subset=160), {"crop": 2, "flip": True}
    chosen = settings(epochs=6, batch_size=32, lr=0.05, augmentation=augmented, precision="auto")
    train(model, data, chosen, run_folder=folder, resume=True, regularizer=flow, progress=False)
    torch.save(model.state_dict(), folder / "final.pt")


def test_a_run_killed_in_mid_epoch_ends_with_the_weights_of_one_never_killed(tmp_path: Path) -> None:
    def ended(folder: str, killed_at: int | None = None) -> int | None:
        process = multiprocessing.get_context(start_method()).Process(target=job, args=(tmp_path / folder, killed_at))
        process.start()
        process.join(600)
        return process.exitcode

    assert ended("through") == 0
    assert ended("killed", killed_at=13) == -signal.SIGKILL  # in the third epoch of five steps
    assert not (tmp_path / "killed" / "final.pt").exists()
    assert len((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()) == 2
    assert ended("killed") == 0
    through, again = (torch.load(tmp_path / folder / "final.pt", weights_only=True) for folder in ("through", "killed"))
    assert through.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in through.items())


def test_a_finished_training_resumes_to_itself_and_a_new_one_starts_afresh(tmp_path: Path) -> None:
    data = load_data("digits", subset=64)
    first, resumed = small(), small(seed=5)
    result = train(first, data, settings(epochs=2), run_folder=tmp_path, progress=False)
    again = train(resumed, data, settings(epochs=2), run_folder=tmp_path, resume=True, progress=False)
    assert again == result and states_equal(first, resumed)
    train(small(), data, settings(epochs=1), run_folder=tmp_path, progress=False)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_resuming_with_other_settings_or_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    data = load_data("digits", subset=64)
    train(small(), data, settings(epochs=1), run_folder=tmp_path, progress=False)
    with pytest.raises(OutputError, match=r"lr: 0.1 instead of 0.02"):
        train(small(), data, settings(epochs=1, lr=0.02), run_folder=tmp_path, resume=True, progress=False)
    with pytest.raises(OutputError, match="of another network"):
        train(models.create("vgg6", in_channels=1), data, settings(epochs=1), run_folder=tmp_path, resume=True)
    other = small()
    with pytest.raises(OutputError, match="with a regularizer: False instead of True"):
        train(other, data, settings(epochs=1), regularizer=Pull(other), run_folder=tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match="cannot read the checkpoint"):
        train(small(), data, settings(epochs=1), run_folder=tmp_path, resume=True, progress=False)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    model = small()
    with torch.no_grad():
        model.linear.bias[0] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match="no number any more in epoch 1"):
        train(model, load_data("digits", subset=64), settings(), progress=False)


def test_a_last_batch_of_one_image_does_not_break_batch_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.BatchNorm1d(10))
    train(model, load_data("digits", subset=65), settings(epochs=1), progress=False)


def test_evaluation_only_at_the_end_and_zero_epochs() -> None:
    data, model = load_data("digits", subset=64), small()
    history = train(model, data, settings(epochs=3, evaluate_every=5), progress=False).history
    assert [epoch["test_accuracy"] is None for epoch in history] == [True, True, False]
    nothing = train(model, data, settings(epochs=0), progress=False)
    assert nothing.history == [] and nothing.top1 == history[-1]["test_accuracy"]


def test_bfloat16_learns_with_float32_weights() -> None:
    model = small()
    result = train(model, load_data("digits", size=8), settings(epochs=3, precision="bfloat16"), progress=False)
    assert result.top1 > 80
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_schedules_start_and_end_where_they_should() -> None:
    cosine = settings(epochs=10, lr=0.1)
    rates = [learning_rate(cosine, step, 5) for step in range(50)]
    assert rates[0] == 0.1 and rates[25] == pytest.approx(0.05) and 0 < rates[-1] < 2e-4
    assert rates == sorted(rates, reverse=True)
    steps = settings(epochs=10, lr=0.1, schedule="step")
    assert [round(learning_rate(steps, step, 5), 6) for step in (0, 24, 25, 37, 38, 49)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.001,
        0.001,
    ]
    warm = settings(epochs=10, lr=0.1, warmup_epochs=2)
    assert [learning_rate(warm, step, 2) for step in range(4)] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert learning_rate(warm, 4, 2) == 0.1


@pytest.mark.parametrize("wrong", [{"momentum": 0}, {"milestones": (1.5,)}, {"lr": 0}, {"epoch": 3}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


def of_two(rank: int, port: int, folder: Path) -> None:
    """One of two processes, as ``torchrun`` starts them."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = models.create("resnet8", in_channels=1, width=8)
    flow = FeatureFlow(model, "10%", None)
    chosen = settings(epochs=4, precision="auto")
    result = train(model, load_data("digits", size=8), chosen, run_folder=folder, regularizer=flow, progress=False)
    assert type(model).__name__ == "CifarResNet"
    assert PartialState().num_processes == 2
    torch.save({"model": model.state_dict(), "top1": result.top1}, folder / f"{PartialState().process_index}.pt")
    PartialState().destroy_process_group()  # else its threads may still run when the interpreter goes


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(of_two, (port, tmp_path), nprocs=2, start_method=start_method())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["top1"] == second["top1"] > 80
    assert all(torch.equal(value, second["model"][key]) for key, value in first["model"].items())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
