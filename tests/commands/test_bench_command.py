"""Models side by side: whose row is whose, what a ratio is, what is counted; and widths that a machine likes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.cli import main
from flowprune.engine.measuring import preferred_widths
from flowprune.engine.measuring.backends import runner
from flowprune.engine.measuring.layer_times import layer_times
from flowprune.engine.measuring.live_memory import feature_bytes, weight_bytes
from flowprune.engine.planning.latency_budget import _is_fast_enough, _verdict
from flowprune.errors import FlowpruneError
from flowprune.models import create

Said = Callable[..., str]
X = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def said(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run a command as everywhere, in a folder with two models."""
    monkeypatch.setenv("FLOWPRUNE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    dense = create("resnet8", width=8)
    fp.save(dense, "dense.fp", notes={"input": [3, 16, 16]})
    fp.save(fp.prune(dense, X, importance=fp.importance.L2(), macs=0.5), "small.fp", notes={"input": [3, 16, 16]})
    return said


def test_every_model_under_every_condition(said: Said) -> None:
    found = json.loads(
        said(
            *[
                "bench",
                "dense.fp",
                "small.fp",
                "--batch-size",
                "1",
                "--batch-size",
                "3",
                "--turns",
                "2",
                "--threads",
                "1",
                "--json",
            ]
        )
    )
    rows = [(row["name"], row["backend"], row["batch"], row["threads"]) for row in found["rows"]]
    assert rows == [(name, "pytorch", batch, 1) for batch in (1, 3) for name in ("dense.fp", "small.fp")]
    dense, small = found["rows"][:2]
    assert dense["speed_up"] == 1 and small["speed_up"] > 0 and dense["milliseconds"] > 0
    assert dense["quartiles"][0] <= dense["milliseconds"] <= dense["quartiles"][1]
    costs = [fp.measure(fp.load(name), X) for name in ("dense.fp", "small.fp")]
    assert [row["macs"] for row in (dense, small)] == [cost.macs for cost in costs]
    assert small["macs_ratio"] == pytest.approx(costs[0].macs / costs[1].macs)
    assert small["weight_mb"] < dense["weight_mb"] and small["feature_mb"] < dense["feature_mb"]
    assert found["rows"][2]["feature_mb"] == pytest.approx(3 * dense["feature_mb"], rel=0.01)
    table = said(*["bench", "dense.fp", "small.fp", "--turns", "2", "--layers", "2"])
    assert "x as fast" in table
    assert sum("of the whole difference" in line for line in table.splitlines()) == 2


def test_onnx_files_beside_models(said: Said) -> None:
    pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
    said("export", "small.fp", "--out", "small.onnx")
    found = json.loads(
        said(
            *[
                "bench",
                "small.fp",
                "small.onnx",
                "--backend",
                "pytorch",
                "--backend",
                "onnxruntime",
                "--turns",
                "2",
                "--json",
            ]
        )
    )
    assert [(row["name"], row["backend"]) for row in found["rows"]] == [
        ("small.fp", "pytorch"),  # PyTorch runs no ONNX file
        ("small.fp", "onnxruntime"),
        ("small.onnx", "onnxruntime"),
    ]
    assert found["rows"][2]["macs_ratio"] is None and found["rows"][2]["speed_up"] > 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("bench", "name models to time"),
        ("bench resnet8 resnet8", "named twice"),
        ("bench resnet8 resnet9", "did you mean 'resnet8'?"),
        ("bench broken.onnx", "cannot read broken.onnx"),
        ("bench resnet8 --backend tensorrt", "tensorrt"),
        ("bench resnet8 --layers 3 --turns 1", "name two that are no ONNX files"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.onnx").write_bytes(b"not ONNX")
    assert main(words.split()) == 2
    line = capfd.readouterr().err
    assert complaint in line and line.count("\n") == 1


def test_backends_are_named_alike_everywhere() -> None:
    from flowprune.commands import cut_options
    from flowprune.engine.measuring import backends

    assert cut_options.BACKENDS == backends.BACKENDS == tuple(preferred_widths.DEFAULTS)


@pytest.mark.parametrize("backend", ["pytorch", "onnxruntime"])
def test_a_backend_runs_what_the_model_computes(backend: str) -> None:
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
    model, x = create("resnet8", width=4).eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        found = runner(backend, model, x)()
    ours = torch.from_numpy(found[0]) if backend == "onnxruntime" else found  # type: ignore[index]
    assert torch.allclose(ours, expected, atol=1e-5)  # type: ignore[arg-type]
    with pytest.raises(FlowpruneError, match="did you mean 'onnxruntime'"):
        runner("onnxruntim", model, x)


def test_memory_is_counted_by_hand() -> None:
    model = nn.Sequential(
        nn.Linear(4, 100, bias=False), nn.Linear(100, 10, bias=False), nn.Linear(10, 1000, bias=False)
    )
    assert weight_bytes(model) == 4 * (400 + 1000 + 10000)
    # the third layer's 1000 outputs live beside the 10 it reads; the 100 are gone
    assert feature_bytes(model, torch.zeros(1, 4)) == 4 * 1010


def test_times_of_layers_are_those_of_modules_without_children() -> None:
    models = [create("resnet8", width=4), create("resnet8", width=4)]
    models[0].train()
    first, second = layer_times(models, X, turns=2)
    assert (
        set(first) == set(second) and "layer1.0.conv1" in first and "layer1.0" not in first and min(first.values()) > 0
    )
    assert models[0].training and not any(module._forward_hooks for module in models[0].modules())


def test_the_message_of_a_latency_has_the_numbers_of_its_verdict() -> None:
    """Medians say 23 ms of 40, turn by turn it was 0.95: the line must not say that 23 is more than 32."""
    from flowprune.engine.allocation import Budget
    from flowprune.engine.measuring.latency import Timing

    dense, small = Timing((0.020, 0.040, 0.024)), Timing((0.019, 0.038, 0.023))
    budget = Budget("latency", share=0.8)
    assert not _is_fast_enough(budget, dense, small)
    said = _verdict(budget, dense, small)
    assert "0.8 of the dense model's time were asked for" in said and f"{small.share_of(dense):.3g} of its time" in said


def test_a_latency_by_onnx_runtime(said: Said) -> None:
    pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
    text = said("prune", "dense.fp", "--latency", "900s", "--backend", "onnxruntime", "--out", "a.fp")
    assert "beside the dense model's" in text and "threads, onnxruntime)" in text


def test_liked_widths_are_the_default_until_they_are_measured(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    text = said("prune", "dense.fp", "--channels", "50%", "--round-to", "auto", "--out", "a.fp")
    assert "round_to=auto: multiples of 8 (the default for pytorch; flowprune bench --widths measures it)" in text
    monkeypatch.setattr(preferred_widths, "_WIDTHS", (3, 4, 5, 6, 7))  # small ones: only that it is kept is tested
    found = json.loads(said("bench", "--widths", "--turns", 1, "--json"))["pytorch"]
    assert found["multiple"] in preferred_widths.CANDIDATES and len(found["times"]) == 5
    text = said("prune", "dense.fp", "--channels", "50%", "--round-to", "auto", "--out", "b.fp")
    assert "measured for pytorch on this machine" in text


def test_liked_widths_are_narrower_where_a_layer_needs_it_and_never_an_error(said: Said) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 144, 4)
    )
    l2 = fp.importance.L2()
    made = fp.plan(model, X, importance=l2, macs=0.5, round_to="auto")
    small = fp.prune(model, made)
    assert small[2].out_channels % 8 == 0 and small[0].out_channels in (2, 4, 6)
    assert fp.measure(small, X).macs <= 0.5 * fp.measure(model, X).macs
    with pytest.raises(FlowpruneError):
        fp.plan(model, X, importance=l2, macs=0.12, round_to=16)
    tight = fp.plan(model, X, importance=l2, macs=0.12, round_to="auto")
    assert tight.macs[1] <= 0.12 * tight.macs[0]
