"""Batch norms behind a training: the statistics of its last batches under its last weights, and a training taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowprune as fp
from flowprune.errors import FlowpruneError
from flowprune.methods.recovery import BatchNorm
from flowprune.methods.recovery.batch_norm_after_training import BatchNormAfterTraining

DATA = fp.load_data("digits", size=8, subset=48)
SETTINGS = fp.TrainingSettings(epochs=2, batch_size=16, lr=0.1, precision="float32")


def network() -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("vgg6", in_channels=1, width=4)


def trained(folder: Path, **options: Any) -> tuple[nn.Module, BatchNormAfterTraining]:
    model, method = network(), BatchNormAfterTraining(batches=2)
    method.prepare(model, model, None, ())  # type: ignore[arg-type]
    fp.train(model, DATA, SETTINGS, run_folder=folder, regularizer=method, resume=True, progress=False, **options)
    return model, method


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_statistics_are_of_the_last_batches_and_a_resumed_training_ends_alike(tmp_path: Path) -> None:
    plain = network()
    fp.train(plain, DATA, SETTINGS, progress=False)
    model, method = trained(tmp_path / "whole")
    whole = buffers(model)
    assert all(torch.equal(whole[name], parameter) for name, parameter in plain.named_parameters())
    BatchNorm().prepare(plain, plain, None, list(method._seen))  # type: ignore[arg-type]
    assert len(method._seen) == 2
    assert all(torch.equal(whole[name], tensor) for name, tensor in plain.named_buffers() if "running" in name)

    def killed(figures: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", each_epoch=killed)
    for _ in range(2):  # taken up in the middle, and once it had ended
        again = buffers(trained(tmp_path / "killed")[0])
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_batches_are_counted() -> None:
    with pytest.raises(FlowpruneError, match="batches=0 is not a whole number"):
        BatchNormAfterTraining(batches=0)
