"""What one training step costs with each form of the flow's penalty over one without, optimizer's step and all.

    python benchmarks/flow_overhead/forms.py [--rounds 5] [--only NAME] [--out results/flow-overhead/forms.json]

All ways of one step are interleaved; a round's ratio is to the plain step of the same round, and the median over the rounds
counts, in processor time. Each timed step comes after an untimed one of the same way. Nothing else should run beside it; the load
averages are written down. ``pages.py flow_overhead`` puts the table into docs/flow.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import flowprune as fp
from flowprune.artifacts.atomic_write import write_text
from flowprune.reporting.environment import environment

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from flow_overhead.run import NETWORKS, Bench  # noqa: E402

MEASURED = ("resnet20", "resnet56", "vgg16")
PLAIN = "plain"
RELATIVE: dict[str, Any] = {"size": "relative"}
CHANNELS: dict[str, Any] = {**RELATIVE, "reduction": "channel"}
FORMS: dict[str, dict[str, Any]] = {
    "today's": {},
    "norm 2": {"norm": 2},
    "relative": RELATIVE,
    "detached": {"size": "detached"},
    "group": {**CHANNELS, "norm": "group"},
    "group, by MACs": {**CHANNELS, "norm": "group", "weights": "macs"},
    "path": {**CHANNELS, "norm": "path"},
    "path, by MACs": {**CHANNELS, "norm": "path", "weights": "macs"},
    "today's, compiled": {"compiled": True},
    "today's, proximal": {"pushed_scales": "proximal"},
}
"""What they are called in the table -> options of ``FeatureFlow``; gradient and curvature act in all of them."""
RATE = 1e-6
"""So small that the network stays what it is."""


class Step:
    """One training step of a network, in any way."""

    def __init__(self, name: str) -> None:
        self.bench = Bench(name)
        self.optimizer = torch.optim.SGD(self.bench.model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)

    def seconds(self, way: str) -> float:
        """Of the second of two steps, in processor time."""
        bench = self.bench
        if way != PLAIN:
            bench.flow = fp.FeatureFlow(bench.model, 0.1, 0.1, inputs=bench.x[:2], **FORMS[way])
            bench.flow.begin(fp.Training(self.optimizer, steps=1000))
        for _ in range(2):
            began = time.process_time()
            bench.step(PLAIN if way == PLAIN else "flow")
            self.optimizer.step()
            spent = time.process_time() - began
        bench.detach()
        return spent


def measured(name: str, rounds: int) -> dict[str, list[float]]:
    """Way -> ratios to the plain step, one a round."""
    step = Step(name)
    step.seconds(PLAIN)
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(rounds):
        plain = step.seconds(PLAIN)
        for form, ratios in found.items():
            ratios.append(step.seconds(form) / plain)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/flow-overhead/forms.json"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    load, networks = [os.getloadavg()], []
    for name in [given.only] if given.only else MEASURED:
        ratios = measured(name, given.rounds)
        batch, side = NETWORKS[name]
        networks.append({"network": name, "batch": batch, "side": side, "ratios": ratios})
        load.append(os.getloadavg())
        print(name, {form: round(statistics.median(each), 3) for form, each in ratios.items()}, flush=True)
    record = {
        "command": f"python benchmarks/flow_overhead/forms.py --rounds {given.rounds}",
        "environment": environment(),
        "load_averages": load,
        "networks": networks,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(given.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
