"""What one training step with FFR costs over one without: time in one process, memory in a fresh process each.

    python benchmarks/flow_overhead.py [--rounds N] [--only NAME] [--out results/flow-overhead.json] [--table docs/flow.md]

Four ways of one step, interleaved, medians of the processor's time: *plain*; *flow*, ``FeatureFlow`` with gradient and curvature
as it comes; *naive*, the same points taken by hooks and ``(x1 - x0).abs().mean()`` written out, equal shapes only; *bound*, one
in-place addition of a tensor of every point's size to that point's gradient, about the least a penalty on the features can do.
Memory is the peak resident size of a fresh process over three steps less what it had before them. ``--table`` writes the table
into that file, between its markers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from written_pages import written

import flowprune as fp
from flowprune.reporting.environment import environment

NETWORKS = {
    "resnet20": (128, 32),
    "resnet56": (64, 32),
    "vgg16": (64, 32),
    "torchvision:resnet50": (8, 128),
}
WAYS = ("plain", "flow", "naive", "bound")
BEGIN, END = "<!-- flow_overhead: begin -->", "<!-- flow_overhead: end -->"


class Bench:
    """One network and its steps."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.batch, side = NETWORKS[name]
        self.model = fp.models.create(name)
        self.x = torch.randn(self.batch, 3, side, side)
        self.y = torch.randint(10, (self.batch,))
        with fp.FeatureFlow(self.model, gradient=0.1, inputs=self.x[:2]) as flow:
            self.points = flow.points
        self.flow: fp.FeatureFlow | None = None
        self.seen: list[Tensor] = []
        self.handles: list[Any] = []

    def attach(self, way: str) -> None:
        """Give the model the hooks of one way, and nothing of the others."""
        if way == "flow":
            self.flow = fp.FeatureFlow(self.model, gradient=0.1, curvature=0.1, inputs=self.x[:2])
        elif way in ("naive", "bound"):
            for point in self.points:
                module = self.model.get_submodule(point.module)
                if point.side == "input":
                    self.handles.append(module.register_forward_pre_hook(lambda _, args: self.seen.append(args[0])))
                else:
                    self.handles.append(module.register_forward_hook(lambda _, args, out: self.seen.append(out)))

    def detach(self) -> None:
        """Take all hooks off."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        if self.flow is not None:
            self.flow.close()
        self.flow = None

    def step(self, way: str) -> None:
        """Forward, loss, backward."""
        self.seen.clear()
        loss = functional.cross_entropy(self.model(self.x), self.y)
        if way == "flow":
            assert self.flow is not None
            loss = loss + self.flow.penalty()
        elif way == "naive":
            for x0, x1 in zip(self.seen, self.seen[1:], strict=False):
                if x0.shape == x1.shape:
                    loss = loss + 0.1 * (x1 - x0).abs().mean()
            for x0, x1, x2 in zip(self.seen, self.seen[1:], self.seen[2:], strict=False):
                if x0.shape == x1.shape == x2.shape:
                    loss = loss + 0.1 * (x2 - 2 * x1 + x0).abs().mean()
        elif way == "bound":
            for feature in self.seen:
                feature.register_hook(_adding(feature.detach()))
        self.seen.clear()
        self.model.zero_grad(set_to_none=True)
        loss.backward()


def _adding(amount: Tensor) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        if gradient.is_contiguous():
            gradient.add_(amount, alpha=1e-9)

    return hook


def times(name: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time a step, by way, the ways interleaved."""
    bench = Bench(name)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS:
            bench.attach(way)
            began = time.process_time()
            bench.step(way)
            spent = time.process_time() - began
            bench.detach()
            if number:  # the first round warms up
                found[way].append(spent)
    return found


def memory(name: str, way: str) -> int:
    """Bytes at the peak of three steps over those before them, of this process."""
    bench = Bench(name)
    bench.attach(way)
    before = _kibibytes("VmRSS")
    for _ in range(3):
        bench.step(way)
    return 1024 * (_kibibytes("VmHWM") - before)


def _kibibytes(field: str) -> int:
    # getrusage() would also count what the parent process once held.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def fresh(name: str, way: str) -> int:
    """``memory`` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def table(record: dict[str, Any]) -> str:
    """Ratios to the plain step."""
    lines = [
        "| network (batch) | plain step | flow | naive | bound | memory plain | flow | naive |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["networks"]:
        time_of, memory_of = row["seconds"], row["bytes"]
        ratios = [f"{row['ratios'][way]:.3f}" for way in WAYS[1:]]
        more = [f"{memory_of[way] / memory_of['plain']:.3f}" for way in ("flow", "naive")]
        cells = [
            f"{row['network']} ({row['batch']} x {row['side']}²)",
            f"{statistics.median(time_of['plain']):.3f} s",
            *ratios,
            f"{memory_of['plain'] / 2**20:.0f} MiB",
            *more,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median over the rounds of each way's step over the plain step of the same round."""
    return {way: statistics.median(a / b for a, b in zip(seconds[way], seconds["plain"], strict=True)) for way in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=sorted(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/flow-overhead.json"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(memory(*arguments.one))
        return
    rows = []
    for name in [arguments.only] if arguments.only else NETWORKS:
        seconds = times(name, arguments.rounds)
        row = {
            "network": name,
            "batch": NETWORKS[name][0],
            "side": NETWORKS[name][1],
            "seconds": seconds,
            "ratios": ratios(seconds),
            "bytes": {way: fresh(name, way) for way in ("plain", "flow", "naive")},
        }
        rows.append(row)
        print(table({"networks": [row]}).splitlines()[-1], flush=True)
    record = {"command": "python benchmarks/flow_overhead.py", "environment": environment(), "networks": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if arguments.table:
        written(arguments.table, BEGIN, END, f"{table(record)}\n")
    print(table(record))


if __name__ == "__main__":
    main()
