"""What putting a branch's live ends at their places costs, and how fast networks without their dead ends are.

    python benchmarks/branch_speed/run.py [--out results/branch-speed/branch-speed.json]

First, relu(norm(convolution(x)) + stream), all of the branch's ends alive, against fewer of them put at their places
(``placed``), at the widths and sizes of ResNet-20's and ResNet-50's stages. From these come the numbers in
``flowprune.engine.branches.savings``. Then whole networks with dead ends planted: dense, without their dead ends, and pruned
to as many MACs in coupled groups, in PyTorch and ONNX Runtime. One thread, the processor's own clock, all ways in turns, medians.
Then ``python benchmarks/pages.py branch_speed`` writes the tables of docs/branches.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.branches.savings import is_worth_opening
from flowprune.engine.surgery.branch_modules import placed
from flowprune.reporting.environment import environment

STAGES = (
    {"channels": 16, "inner": 16, "size": 32, "kernel": 3, "batches": (1, 64)},
    {"channels": 32, "inner": 32, "size": 16, "kernel": 3, "batches": (1, 64)},
    {"channels": 64, "inner": 64, "size": 8, "kernel": 3, "batches": (1, 64)},
    {"channels": 64, "inner": 64, "size": 56, "kernel": 3, "batches": (1, 8)},
    {"channels": 256, "inner": 256, "size": 14, "kernel": 3, "batches": (1, 8)},
    {"channels": 256, "inner": 64, "size": 56, "kernel": 1, "batches": (1, 8)},
    {"channels": 1024, "inner": 256, "size": 14, "kernel": 1, "batches": (1, 8)},
)
LIVE = (0.9375, 0.875, 0.75, 0.5, 0.25)
NETWORKS = ("resnet20", "resnet56")
BATCHES = (1, 64)


def in_turns(ways: dict[str, Callable[[], object]], least: float, turns: int) -> dict[str, float]:
    """way -> median seconds of the processor; a sample repeats the work until it lasts ``least`` seconds."""
    repeats: dict[str, int] = {}
    for way, work in ways.items():
        work()
        began = time.process_time()
        work()
        repeats[way] = max(1, round(least / max(time.process_time() - began, 1e-6)))
    samples: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, work in ways.items():
            began = time.process_time()
            for _ in range(repeats[way]):
                work()
            samples[way].append((time.process_time() - began) / repeats[way])
    return {way: statistics.median(found) for way, found in samples.items()}


class End(nn.Module):
    """A branch's last convolution and norm, and the addition to its stream."""

    def __init__(self, inner: int, width: int, kernel: int, stream: int) -> None:
        """``width`` live ends in a stream of ``stream`` channels."""
        super().__init__()
        self.conv = nn.Conv2d(inner, width, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        if width < stream:
            placed(self.norm, 4)
            self.norm.register_buffer("constant", torch.zeros(1, stream, 1, 1))
            self.norm.register_buffer("places", torch.randperm(stream)[:width].sort().values)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + stream)


def stage(shape: dict[str, Any], turns: int) -> list[dict[str, Any]]:
    """One row a batch size and share of live ends."""
    rows = []
    channels, inner, size, kernel = (shape[key] for key in ("channels", "inner", "size", "kernel"))
    for batch in shape["batches"]:
        given = (torch.randn(batch, inner, size, size), torch.randn(batch, channels, size, size))
        widths = [max(2, int(channels * share)) for share in LIVE]
        ends = {str(width): End(inner, width, kernel, channels).eval() for width in (channels, *widths)}
        torches = in_turns({way: partial(model, *given) for way, model in ends.items()}, 0.002, turns)
        runtime = in_turns({way: in_onnx_runtime(model, given) for way, model in ends.items()}, 0.002, turns)
        for width in widths:
            rows.append(
                {
                    **{key: shape[key] for key in ("channels", "inner", "size", "kernel")},
                    "batch": batch,
                    "live": width,
                    "worth": is_worth_opening(channels, width, inner * kernel**2 * size**2, size**2),
                    "PyTorch": {"dense": torches[str(channels)], "live": torches[str(width)]},
                    "ONNX Runtime": {"dense": runtime[str(channels)], "live": runtime[str(width)]},
                }
            )
    return rows


def planted(name: str, how: str) -> nn.Module:
    """A network with half of every branch's ends dead, or with every other branch that keeps its shape dead as a whole."""
    torch.manual_seed(0)
    model = fp.models.create(name).eval()
    blocks = [block for layer in (model.layer1, model.layer2, model.layer3) for block in layer]
    with torch.no_grad():
        for number, block in enumerate(blocks):
            block.bn2.bias.zero_()
            if how == "half of all ends":
                chosen = torch.randperm(len(block.bn2.weight))[: len(block.bn2.weight) // 2]
                block.bn2.weight[chosen] = 0.0
            elif number % 2:
                block.bn2.weight.zero_()
    return model


def compared(name: str, how: str, turns: int) -> dict[str, Any]:
    """One network: dense, without its dead ends, and as small in coupled groups."""
    dense = planted(name, how)
    example = torch.zeros(1, 3, 32, 32)
    always = fp.plan(dense, example, threshold=1e-2, branches="always")
    chosen = fp.plan(dense, example, threshold=1e-2, branches=True)
    share = always.macs[1] / always.macs[0]
    coupled = fp.plan(dense, example, macs=share, importance=fp.importance.Random())
    plans = {"branches=True": chosen, 'branches="always"': always, "coupled groups": coupled}
    models = {"dense": dense, **{way: fp.prune(dense, plan) for way, plan in plans.items()}}
    kinds = {
        kind: sum(branch.kind == kind for branch in always.branches)
        for kind in ("opened", "ended", "constant", "vanished")
    }
    result: dict[str, Any] = {
        "network": name,
        "dead": how,
        "branches": kinds,
        "changed with branches=True": len(chosen.branches),
        "macs": {"dense": always.macs[0], **{way: plan.macs[1] for way, plan in plans.items()}},
        "params": {"dense": always.params[0], **{way: plan.params[1] for way, plan in plans.items()}},
        "seconds": {},
    }
    for batch in BATCHES:
        given = (torch.randn(batch, 3, 32, 32),)
        eager = {way: partial(model.eval(), *given) for way, model in models.items()}
        runtime = {way: in_onnx_runtime(model, given) for way, model in models.items()}
        result["seconds"][f"PyTorch, batch {batch}"] = in_turns(eager, 0.01, turns)
        result["seconds"][f"ONNX Runtime, batch {batch}"] = in_turns(runtime, 0.01, turns)
    return result


def in_onnx_runtime(model: nn.Module, given: tuple[Tensor, ...]) -> Callable[[], object]:
    """The model's forward in ONNX Runtime, on one thread."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        fp.export(model, given, Path(folder) / "model.onnx", dynamic_batch=False)
        content = (Path(folder) / "model.onnx").read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {slot.name: tensor.numpy() for slot, tensor in zip(session.get_inputs(), given, strict=True)}
    return partial(session.run, None, feed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/branch-speed/branch-speed.json"))
    parser.add_argument("--turns", type=int, default=15)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, Any] = {"environment": environment(), "ends": [], "networks": []}
    with torch.no_grad():
        for shape in STAGES:
            result["ends"] += stage(shape, asked.turns)
            for row in result["ends"][-2 * len(LIVE) :]:
                shares = {way: round(row[way]["live"] / row[way]["dense"], 2) for way in ("PyTorch", "ONNX Runtime")}
                print(shape, row["batch"], row["live"], row["worth"], shares, flush=True)
        for name in NETWORKS:
            for how in ("half of all ends", "every other branch"):
                result["networks"].append(compared(name, how, asked.turns))
                print(json.dumps(result["networks"][-1]), flush=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {asked.out}")


if __name__ == "__main__":
    main()
