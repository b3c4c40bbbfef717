"""What one training step with FFR costs over one without: time in one process, memory in a fresh process each.

    python benchmarks/flow_overhead/run.py [--rounds N] [--only NAME] [--parts] [--out results/flow-overhead/flow-overhead.json]
                                       [--table docs/flow.md]

Four ways of one step, interleaved, medians of the processor's time: *plain*; *flow*, ``FeatureFlow`` with gradient and curvature
as it comes; *naive*, the same points taken by hooks and ``(x1 - x0).abs().mean()`` written out, equal shapes only; *bound*, one
in-place addition of a tensor of every point's size to that point's gradient, about the least a penalty on the features can do.
Every timed step comes after an untimed one of the same way, as in a training; otherwise it would pay for the memory that the C
library's allocator gave back after the way before.
Memory is the peak resident size of a fresh process over three steps less what it had before them. ``--parts`` measures where the
time goes, and beside it what memory alone asks of any such penalty: every feature read once more in the forward, every gradient
read and written once more, beside its feature, in the backward, none of them in the cache. ``--table`` writes the tables into that
file, between its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

import flowprune as fp
from flowprune.methods.regularizers.feature_flow.penalty import absolute_penalty
from flowprune.methods.regularizers.feature_flow.penalty.absolute_penalty import _Backward as Backward
from flowprune.methods.regularizers.feature_flow.penalty.absolute_penalty import _Pull as Pull
from flowprune.reporting.environment import environment

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from written_pages import written  # noqa: E402

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
            bench.step(way)
            began = time.process_time()
            bench.step(way)
            spent = time.process_time() - began
            bench.detach()
            if number:  # the first round warms up
                found[way].append(spent)
    return found


def parts(name: str, rounds: int) -> dict[str, float]:
    """Median seconds of processor time a step with the flow spends in its two halves, and what memory alone asks of each."""
    spent: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    bench = Bench(name)
    bench.attach("flow")
    with (
        mock.patch.object(absolute_penalty, "absolute_sums", _timed(absolute_penalty.absolute_sums, "forward", spent)),
        mock.patch.object(Backward, "arm", _timed(Backward.arm, "arm", spent)),
        mock.patch.object(Pull, "receive", _timed(Pull.receive, "hooks", spent)),
    ):
        for number in range(rounds + 1):
            spent.clear()
            bench.step("flow")
            if number:
                found.setdefault("forward", []).append(spent["forward"])
                found.setdefault("backward", []).append(spent["arm"] + spent["hooks"])
    bench.detach()
    shapes = _shapes(bench)
    for _ in range(rounds):
        reading = writing = 0.0
        for shape in shapes:
            feature, gradient = torch.ones(shape), torch.ones(shape)
            _emptied_cache()
            reading += _seconds(feature.sum)
            _emptied_cache()
            writing += _seconds(lambda gradient=gradient, feature=feature: gradient.add_(feature))
        found.setdefault("memory forward", []).append(reading)
        found.setdefault("memory backward", []).append(writing)
    return {part: statistics.median(seconds) for part, seconds in found.items()}


def _timed(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        began = time.process_time()
        result = function(*arguments, **keywords)
        spent[part] = spent.get(part, 0.0) + time.process_time() - began
        return result

    return timed


def _shapes(bench: Bench) -> list[torch.Size]:
    bench.attach("bound")
    bench.seen.clear()
    with torch.no_grad():
        bench.model(bench.x)
    bench.detach()
    shapes = [feature.shape for feature in bench.seen]
    bench.seen.clear()
    return shapes


def _emptied_cache() -> None:
    torch.ones(1 << 25).add_(1)  # 128 MiB


def _seconds(function: Callable[[], Any]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


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
    if any("parts" in row for row in record["networks"]):
        lines += [
            "",
            "| in percent of a plain step | forward: sums | backward: signs and pulls | memory alone: forward | backward |",
            "|---|---|---|---|---|",
        ]
        for row in record["networks"]:
            plain = statistics.median(row["seconds"]["plain"])
            shares = [
                f"{100 * row['parts'][part] / plain:.1f}"
                for part in ("forward", "backward", "memory forward", "memory backward")
            ]
            lines.append("| " + " | ".join([row["network"], *shares]) + " |")
    return "\n".join(lines)


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median over the rounds of each way's step over the plain step of the same round."""
    return {way: statistics.median(a / b for a, b in zip(seconds[way], seconds["plain"], strict=True)) for way in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=sorted(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", action="store_true", help="also where the time goes")
    parser.add_argument("--out", type=Path, default=Path("results/flow-overhead/flow-overhead.json"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(memory(*arguments.one))
        return
    rows = []
    load = [os.getloadavg()]
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
        if arguments.parts:
            row["parts"] = parts(name, arguments.rounds)
        rows.append(row)
        load.append(os.getloadavg())
        print(table({"networks": [row]}), flush=True)
    record = {
        "command": f"python benchmarks/flow_overhead/run.py --rounds {arguments.rounds}{' --parts' * arguments.parts}",
        "environment": environment(),
        # Over 1, 5 and 15 minutes, before the first network and after each: others on the machine share its caches and memory.
        "load_averages": load,
        "networks": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if arguments.table:
        written(arguments.table, BEGIN, END, f"{table(record)}\n")
    print(table(record))


if __name__ == "__main__":
    main()
