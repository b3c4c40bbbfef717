"""The commands as installed: artifact in, artifact out, and the numbers they print are those of the library."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowprune import load, measure
from flowprune.artifacts import read_header, save
from flowprune.models import create
from flowprune.training import TrainingSettings, evaluate, load_data, train

Finished = subprocess.CompletedProcess[str]
Flowprune = Callable[..., Finished]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that reads digits, as an artifact that knows its data."""
    torch.manual_seed(0)
    data = load_data("digits", subset=400)
    model = create("resnet8", in_channels=1, width=8)
    train(model, data, TrainingSettings(epochs=4, batch_size=32, augmentation=None), progress=False)
    path = tmp_path_factory.mktemp("trained") / "dense.fp"
    notes = {"input": [1, 16, 16], "data": {"name": "digits", "normalize": "digits", "size": 16}}
    save(model, path, notes=notes)
    return path


def succeeded(done: Finished) -> str:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def top1_in(text: str) -> float:
    found = re.search(r"top-1 ([\d.]+) %", text)
    assert found is not None, text
    return float(found[1])


def test_prune_finetune_and_evaluate_an_artifact(
    installed: Flowprune, flowprune: Flowprune, trained: Path, tmp_path: Path
) -> None:
    dense = load(trained)
    printed = succeeded(
        installed("prune", trained, "--macs", 0.4, "--importance", "nuclear_norm", "--batches", 1, "--out", "small.fp")
    )
    assert "asked: macs=0.4 (global, NuclearNorm)" in printed
    path = tmp_path / "work" / "small.fp"
    small, x = load(path), torch.zeros(1, 1, 16, 16)
    assert measure(small, x).macs <= 0.4 * measure(dense, x).macs
    again = succeeded(
        flowprune(
            "finetune", path, "--epochs", 2, "--batch-size", 32, "--out", "tuned.fp", "--set", "augmentation=null"
        )
    )
    tuned = load(tmp_path / "work" / "tuned.fp")
    expected = evaluate(tuned, load_data("digits")).top1
    assert top1_in(again) == pytest.approx(expected, abs=0.01)
    assert expected > evaluate(small, load_data("digits")).top1
    assert top1_in(succeeded(flowprune("evaluate", "tuned.fp"))) == pytest.approx(expected, abs=0.01)
    before = path.read_bytes()
    refused = flowprune("prune", trained, "--macs", 0.9, "--out", "small.fp")
    assert refused.returncode == 2 and "--overwrite" in refused.stderr and path.read_bytes() == before


def test_measure_counts_and_export_writes_onnx(
    installed: Flowprune, flowprune: Flowprune, trained: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
    dense, x = load(trained), torch.linspace(-1, 1, 3 * 256).view(3, 1, 16, 16)
    found = json.loads(succeeded(flowprune("measure", trained, "--json")))
    assert found["params"] == sum(parameter.numel() for parameter in dense.parameters())
    cost = measure(dense, x)
    assert {key: found[key] for key in ("macs", "effective_macs", "nonzero", "bytes", "stored_bytes")} == {
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        "nonzero": cost.nonzero,
        "bytes": sum(tensor.nbytes for tensor in dense.state_dict().values()),
        "stored_bytes": cost.bytes,
    }
    (tmp_path / "work" / "by-hand").touch()
    done = installed("export", trained, "net.onnx")
    assert "ONNX Runtime differs" in succeeded(done)
    assert re.sub("export: at work for .*\n", "", done.stderr) == ""  # on a busy machine
    modes = {file: (tmp_path / "work" / file).stat().st_mode for file in ("net.onnx", "by-hand")}
    assert modes["net.onnx"] == modes["by-hand"]
    session = onnxruntime.InferenceSession(tmp_path / "work" / "net.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(logits), dense.eval()(x), atol=1e-4)


OWN_MODEL = """
from torch import nn

def build(width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    )
"""

OWN_IMPORTANCE = '''
"""A criterion of somebody else's: the last channel is worth most."""
import torch

class LastIsBest:
    """A channel is worth its position."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, model, inputs, groups):
        return [self.factor * torch.arange(group.channels, dtype=torch.float64) for group in groups]
'''


def test_a_model_and_an_importance_of_ones_own(installed: Flowprune, flowprune: Flowprune, tmp_path: Path) -> None:
    """The model is a function in the current folder; the importance comes with another installed package."""
    (tmp_path / "work" / "my_models.py").write_text(OWN_MODEL)
    site = tmp_path / "site"
    (site / "other_package-1.0.dist-info").mkdir(parents=True)
    (site / "other_package.py").write_text(OWN_IMPORTANCE)
    (site / "other_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n"
    )
    (site / "other_package-1.0.dist-info" / "entry_points.txt").write_text(
        "[flowprune.importance]\nlast_is_best = other_package:LastIsBest\n"
    )
    both = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    listed = succeeded(installed("methods", PYTHONPATH=both))
    assert re.search(r"last_is_best\s+A channel is worth its position\.", listed)
    for name in ("l2", "nuclear_norm", "ffr", "resnet56", "vgg16", "cifar10", "digits"):
        assert name in listed
    arguments = [
        "my_models:build",
        "--channels",
        "0.5",
        "--input",
        "3x12x12",
        "--out",
        "own.fp",
        "--model-option",
        "width=6",
    ]
    option = ["--importance", "last_is_best", "--importance-option", "factor=2"]
    succeeded(flowprune("prune", *arguments, *option, PYTHONPATH=both))
    (plan,) = read_header(tmp_path / "work" / "own.fp").plans
    assert plan["importance"] == "LastIsBest"
    assert plan["removed"]["0.weight"]["0"] == [0, 1, 2]
    refused = flowprune("measure", "own.fp")
    assert refused.returncode == 2 and "--builder my_models:build" in refused.stderr
    measured = succeeded(flowprune("measure", "own.fp", "--model", "my_models:build", "--model-option", "width=6"))
    assert "dead filters 0 of 6" in measured


def test_help_does_not_wait_for_torch(installed: Flowprune) -> None:
    printed = succeeded(installed("--help", PYTHONVERBOSE="1"))
    for command in ("run", "prune", "finetune", "evaluate", "measure", "export", "report", "methods"):
        assert re.search(rf"^\W+{command}\s", printed, flags=re.MULTILINE)
    verbose = installed("prune", "--help", PYTHONVERBOSE="1").stderr
    assert "import 'flowprune.commands.prune'" in verbose and "import 'torch'" not in verbose
