"""Time a plan before and after a change: two checkouts of this repository, turn by turn, in processor seconds.

    python benchmarks/plan_time/run.py --before CHECKOUT [--rounds 3] [--out results/plan-time/plan-time.json]

The six models that docs/zoo.md names are planned at half their MACs, and, with a tenth of the filters in front of their batch norms
made dead and constant, by a threshold. Every turn is a process of its own on one thread: one plan to warm up, then the median of
three. The ratio is that of the medians of all rounds.
"""

from __future__ import annotations

import argparse
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

from zoo.run import SAMPLED_THRICE  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODELS = [f"torchvision:{name}" for name in SAMPLED_THRICE]

CHILD = """
import json, statistics, sys, time, warnings
warnings.simplefilter("ignore")
import torch
import flowprune as fp
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
name, kind = sys.argv[1:]
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
seconds = []
for _ in range(4):
    began = time.process_time()
    made = fp.plan(model, images, **asked)
    seconds.append(time.process_time() - began)
print("RECORD " + json.dumps([statistics.median(seconds[1:]), made.params[1]]))
"""


def turn(checkout: Path, model: str, kind: str) -> tuple[float, int]:
    """(processor seconds of a plan, parameters it keeps), by the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, model, kind], capture_output=True, text=True, env=environment, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RECORD "))
    seconds, kept = json.loads(line[7:])
    return float(seconds), int(kept)


def main() -> None:
    """Take turns, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "plan-time" / "plan-time.json")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "after": ROOT}
    revisions = {
        name: subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=path, capture_output=True, text=True, check=True
        ).stdout.strip()
        for name, path in checkouts.items()
    }
    rows: list[dict[str, Any]] = []
    for kind in ("alive", "dead"):
        for model in MODELS:
            if kind == "dead" and model.endswith("convnext_tiny"):
                continue  # it has no batch norm
            turns = {name: [turn(path, model, kind) for path in checkouts.values()] for name in range(arguments.rounds)}
            seconds = [
                statistics.median(found[place][0] for found in turns.values()) for place, _ in enumerate(checkouts)
            ]
            kept = [found[1] for found in turns[0]]
            rows.append(
                {
                    "model": model,
                    "filters": kind,
                    "before": seconds[0],
                    "after": seconds[1],
                    "ratio": seconds[1] / seconds[0],
                    "params_kept": kept,
                }
            )
            print(
                f"{model} {kind}: {seconds[0]:.2f} s before, {seconds[1]:.2f} after, {rows[-1]['ratio']:.2f}",
                flush=True,
            )
    content = {
        "command": "python benchmarks/plan_time/run.py --before CHECKOUT",
        "revisions": revisions,
        "processor": platform.processor() or platform.machine(),
        "unit": "processor seconds, one thread",
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
