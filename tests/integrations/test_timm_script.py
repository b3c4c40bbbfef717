"""The example script, trained in seconds, beside the same training written by hand."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from timm import create_model
from timm.utils import NativeScaler
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import flowprune as fp
from flowprune.integrations.session import Session

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "timm_train.py"
STEPS = 5


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("timm_train", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def few_digits(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {training: script.digits(training).tensors for training in (True, False)}
    few = {training: TensorDataset(*(part[:100] for part in tensors)) for training, tensors in whole.items()}
    monkeypatch.setattr(script, "digits", lambda training: few[training])


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return create_model("test_resnet", in_chans=1, num_classes=10).to(dtype)


def batches(dtype: torch.dtype) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4 * STEPS, 1, 32, 32, generator=generator, dtype=dtype)
    return DataLoader(TensorDataset(images, torch.randint(10, (4 * STEPS,), generator=generator)), batch_size=4)


@pytest.mark.parametrize("amp", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_equals_the_loop_by_hand(script: ModuleType, accumulated: int, amp: str | None) -> None:
    dtype = torch.float64 if amp is None else torch.float32
    model = network(dtype)
    by_hand = copy.deepcopy(model)
    args = argparse.Namespace(grad_accum_steps=accumulated, amp=amp, device="cpu", clip_grad=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    session = Session(model, {"ffr": {"gradient": "50%", "across": "project"}})
    scaler = NativeScaler(device="cpu") if amp == "float16" else None
    for _ in range(3):
        script.train_one_epoch(model, batches(dtype), optimizer, nn.CrossEntropyLoss(), args, session, scaler)
    (flow,) = session.regularizers
    assert isinstance(flow, fp.FeatureFlow)
    coefficients = flow.coefficients
    session.close()

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01)
    scale = 65536.0 if amp == "float16" else 1.0
    with fp.FeatureFlow(by_hand, "50%", across="project") as flow:
        for _ in range(3):
            images = list(batches(dtype))
            for start in range(0, STEPS, accumulated):
                together = images[start : start + accumulated]
                for inputs, labels in together:
                    with torch.autocast("cpu", dtype=getattr(torch, amp or "bfloat16"), enabled=amp is not None):
                        task_loss = functional.cross_entropy(by_hand(inputs), labels)
                    (scale * (task_loss + flow.penalty(task_loss)) / len(together)).backward()
                gradients = [parameter.grad for parameter in by_hand.parameters() if parameter.grad is not None]
                for gradient in gradients:
                    gradient /= scale
                if all(gradient.isfinite().all() for gradient in gradients):
                    optimizer.step()
                else:
                    scale /= 2  # the scaler's own rule
                optimizer.zero_grad()
        assert coefficients == pytest.approx(flow.coefficients, rel=1e-6)
    tolerance = 1e-10 if amp is None else 1e-4
    for mine, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def test_resumed_training_equals_the_uninterrupted_one(script: ModuleType, tmp_path: Path) -> None:
    options = ["--epochs", "4", "--mixup", "0.2", "--amp", "bfloat16", "--model-ema", "--flow", "50%"]
    options += [
        "--target-dead",
        "0.3",
        "--regularizers",
        '{"wgsef": {"keep": 0.6, "strength": 0.05}}',
        "--device",
        "cpu",
        "--batch-size",
        "20",
        "--grad-accum-steps",
        "3",
    ]
    whole = script.main([*options, "--output", str(tmp_path / "whole")])
    script.main([*options, "--output", str(tmp_path / "killed"), "--stop-after", "2"])
    assert not (tmp_path / "killed" / "checkpoint-2.pth.tar").exists()
    last = tmp_path / "killed" / "checkpoint-1.pth.tar"
    resumed = script.main([*options, "--output", str(tmp_path / "resumed"), "--resume", str(last)])
    for (name, mine), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    states = [
        torch.load(tmp_path / folder / "checkpoint-3.pth.tar", weights_only=True) for folder in ("whole", "resumed")
    ]
    (envelope, flow), (again, flow_again) = (state["regularizers"]["states"] for state in states)
    assert flow == flow_again and flow["control"]["epoch"] == 4
    assert flow["control"]["strength"] != 1  # the controller has had something to do
    assert envelope == again and envelope["control"]["epoch"] == 4
    assert all(map(torch.equal, states[0]["state_dict_ema"].values(), states[1]["state_dict_ema"].values()))


def test_pruned_in_the_end(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    small = script.main(["--epochs", "1", "--flow", "5%", "--keep-macs", "0.5", "--device", "cpu"])
    image = torch.zeros(1, 1, 32, 32)
    assert fp.measure(small, image).macs <= 0.5 * fp.measure(network(torch.float32), image).macs
    assert "asked: macs=0.5" in capsys.readouterr().out
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())


def test_without_the_lines_of_the_flow_it_is_an_ordinary_script(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The marked lines, and only those, know of flowprune: what is left without them runs and trains the same."""
    kept = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if not line.endswith("# flow")]
    assert len(kept) > 150 and "fp." not in "\n".join(kept)
    plain = tmp_path / "plain.py"
    plain.write_text("\n".join(kept), encoding="utf-8")
    specification = importlib.util.spec_from_file_location("plain", plain)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.digits = script.digits
    options = ["--epochs", "1", "--device", "cpu"]
    ours, theirs = script.main(options), module.main(options)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    assert "top-1" in capsys.readouterr().out
    assert "plain" not in sys.modules
