"""Export: what ONNX Runtime computes is what the model computes, and nothing is lost where it is not."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flowprune.artifacts import export
from flowprune.errors import ArtifactError, ModelError, OutputError
from flowprune.methods.importance import L2
from flowprune.models import create
from flowprune.pruning import prune

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra flowprune[onnx] is not installed")


def test_a_pruned_network_runs_the_same_in_onnx_runtime_at_any_batch_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    small = prune(create("resnet8", width=8), torch.zeros(1, 3, 16, 16), importance=L2(), macs=0.5)
    small.train()
    small.layer1.eval()
    modes = [module.training for module in small.modules()]
    done = export(small, torch.randn(1, 3, 16, 16), tmp_path / "small.onnx")
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert [module.training for module in small.modules()] == modes
    assert done.largest_difference < 1e-4 and done.dynamic_batch
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 6):
        x = torch.randn(size, 3, 16, 16)
        with torch.no_grad():
            expected = small.eval()(x).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


class FixedBatch(nn.Module):
    """A forward with the batch size written into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1) * 2


def test_a_batch_size_in_the_code_is_found_and_can_be_fixed(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    path.write_bytes(b"the old file")
    with pytest.raises((ArtifactError, ModelError)):
        export(FixedBatch(), torch.ones(2, 3), path)
    assert path.read_bytes() == b"the old file"
    assert not export(FixedBatch(), torch.ones(2, 3), path, dynamic_batch=False).dynamic_batch
    assert path.read_bytes() != b"the old file"


class DataDependent(nn.Module):
    """A forward the exporter cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > 0 else x.nonzero().float()


def test_what_cannot_be_exported_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old file")
    with pytest.raises(ArtifactError, match="cannot be exported") as raised:
        export(DataDependent(), torch.ones(2, 3), path)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="does not run"):
        export(create("resnet8"), torch.ones(2, 5, 16, 16), path)
    with pytest.raises(OutputError, match="nowhere"):
        export(nn.Linear(3, 3), torch.ones(2, 3), tmp_path / "nowhere" / "model.onnx")
    assert path.read_bytes() == b"the old file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_an_output_outside_the_tolerance_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ArtifactError, match="differs from PyTorch"):
        export(create("resnet8", width=4), torch.randn(2, 3, 16, 16), tmp_path / "a.onnx", tolerance=0.0)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **keywords: object) -> object:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *rest, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ArtifactError, match=r"pip install 'flowprune\[onnx\]'"):
        export(nn.Linear(3, 3), torch.ones(2, 3), tmp_path / "a.onnx")
