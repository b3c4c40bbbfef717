"""Time a plan before and after a change: two checkouts of this repository, turn by turn, in processor seconds.

    python benchmarks/plan_time/run.py --before CHECKOUT [--pairs 11] [--only PATTERN] [--out results/plan-time/plan-time.json]

The six models that docs/zoo.md names are planned at half their MACs, and, with a tenth of the filters in front of their batch norms
made dead and constant, by a threshold. Each checkout plans in a process of its own, on one thread, and the two take turns: whatever
else the machine does meets both; who goes first changes from pair to pair. Every pair has new processes, because one may be some
percent faster than the next for as long as it lives, by where its memory happens to lie. A turn is one plan to warm up and the
median of three, each from a heap just collected: else one of them pays for all that Python's collector has put off since the start,
and how much was imported decides which. What a plan itself leaves to collect is in its time. The ratio is the median of those of
the pairs. Where a plan takes longer than ten seconds, one plan a turn and one pair say enough. Models in the output file are left
out as long as neither revision changed: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from revisions import revision  # noqa: E402
from zoo.run import SAMPLED_THRICE  # noqa: E402

from flowprune.artifacts.atomic_write import write_text  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODELS = [f"torchvision:{name}" for name in SAMPLED_THRICE]

SLOW = 10.0
"""Seconds of a plan that needs no warming up and no second pair."""

CHILD = """
import gc, json, statistics, sys, time, warnings
warnings.simplefilter("ignore")
import torch
import flowprune as fp
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
name, kind, SLOW = *sys.argv[1:3], float(sys.argv[3])
model = fp.models.create(name).eval()
if kind == "dead":
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                dead = torch.rand(module.weight.shape) < 0.1
                module.weight[dead] = 0.0
                module.bias[dead] = torch.randn(int(dead.sum())) / 3
asked = {"threshold": 0.01} if kind == "dead" else {"macs": 0.5, "importance": fp.importance.L2()}
images = torch.randn(1, 3, 224, 224)
for _ in sys.stdin:
    seconds = []
    while len(seconds) < 4 and (not seconds or seconds[0] < SLOW):
        gc.collect()
        began = time.process_time()
        made = fp.plan(model, images, **asked)
        seconds.append(time.process_time() - began)
    print("RECORD " + json.dumps([statistics.median(seconds[1:] or seconds), made.params[1]]), flush=True)
"""


class Planner:
    """The code of a checkout, which plans a model as often as it is asked to."""

    def __init__(self, checkout: Path, model: str, kind: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, model, kind, str(SLOW)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def turn(self) -> tuple[float, int]:
        """(processor seconds of a plan, parameters it keeps)."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("RECORD "):
                seconds, kept = json.loads(line[7:])
                return float(seconds), int(kept)
        raise SystemExit("a plan failed; run the same checkout by hand to see why")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def row(checkouts: dict[str, Path], model: str, kind: str, pairs: int) -> dict[str, Any]:
    """What the pairs say of a model."""
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    kept: dict[str, int] = {}
    for number in range(pairs):
        planners = {name: Planner(checkout, model, kind) for name, checkout in checkouts.items()}
        try:
            for name in sorted(checkouts, reverse=number % 2 == 0):
                found, kept[name] = planners[name].turn()
                seconds[name].append(found)
        finally:
            for planner in planners.values():
                planner.close()
        if max(values[-1] for values in seconds.values()) > SLOW:
            break
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "model": model,
        "filters": kind,
        **medians,
        "ratio": statistics.median(after / before for before, after in zip(*seconds.values(), strict=True)),
        "seconds": seconds,
        "params_kept": [kept[name] for name in checkouts],
    }


def main() -> None:
    """Take turns, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--only", default="*", help="models, as a pattern; their rows are measured anew")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "plan-time" / "plan-time.json")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "after": ROOT}
    content: dict[str, Any] = {
        "command": "python benchmarks/plan_time/run.py --before CHECKOUT",
        "revisions": {name: revision(path) for name, path in checkouts.items()},
        "processor": platform.processor() or platform.machine(),
        "unit": "processor seconds, one thread",
        "pairs": arguments.pairs,
        "rows": [],
    }
    if arguments.out.exists():
        earlier = json.loads(arguments.out.read_text(encoding="utf-8"))
        content["rows"] = earlier["rows"] if earlier["revisions"] == content["revisions"] else []
    for kind in ("alive", "dead"):
        for model in MODELS:
            if kind == "dead" and model.endswith("convnext_tiny"):
                continue  # it has no batch norm
            measured = [found for found in content["rows"] if (found["model"], found["filters"]) == (model, kind)]
            if not fnmatch.fnmatchcase(model, f"*{arguments.only}") or (measured and arguments.only == "*"):
                continue
            found = row(checkouts, model, kind, arguments.pairs)
            content["rows"] = [other for other in content["rows"] if other not in measured] + [found]
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(arguments.out, json.dumps(content, indent=1) + "\n")
            print(
                f"{model} {kind}: {found['before']:.2f} s before, {found['after']:.2f} after, {found['ratio']:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
