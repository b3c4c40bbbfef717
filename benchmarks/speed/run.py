"""How much faster half of the MACs is, by what widths are multiples of: every backend, batch and number of threads, side by side.

    python benchmarks/speed/run.py [--networks NAME ...] [--backends NAME ...] [--batch-sizes 1 32] [--threads 1] [--out FILE]

Every network is cut by L2 to half of its MACs with ``round_to`` 1, 8 and "auto", and timed in turns with the dense one. What a
network, backend or cut cannot do is written down with the reason. What is there is kept: a network that is in the file is not timed
again, so that a long study goes on where it stopped; --again begins anew. The clock is the wall's: nothing may run beside it.
Accuracy at equal MACs is a study of its own: times need no trained weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flowprune as fp
from flowprune.artifacts.atomic_write import write_text
from flowprune.engine.measuring.backends import BACKENDS
from flowprune.reporting import environment
from flowprune.studies.speed import Conditions, Contestant, side_by_side

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = (
    "resnet20",
    "resnet56",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:vgg16_bn",
    "torchvision:mobilenet_v2",
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf",
    "torchvision:vit_b_16",
)
ROUNDED: tuple[int | str, ...] = (1, 8, "auto")
SHARE = 0.5


def shape_of(name: str) -> tuple[int, int, int]:
    """The usual image: this package's networks are CIFAR's."""
    return (3, 224, 224) if ":" in name else (3, 32, 32)


def cuts_of(model: nn.Module, shape: tuple[int, int, int], backend: str) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The small models by what their widths are rounded to, and why some are missing."""
    x, found, missing = torch.zeros(1, *shape), {"dense": model}, {}
    for rounded in ROUNDED:
        name = f"round_to={rounded}"
        try:
            small = fp.prune(model, x, importance=fp.importance.L2(), macs=SHARE, round_to=rounded, backend=backend)
            found[name] = small.eval()
        except fp.FlowpruneError as error:
            missing[name] = str(error)
    return found, missing


def studied(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The rows of one network, and what it could not do."""
    torch.manual_seed(0)
    shape, rows, missing = shape_of(name), [], {}
    model = fp.models.create(name).eval()
    for backend in asked.backends:
        models, absent = cuts_of(model, shape, backend)
        missing |= {f"{backend}, {cut}": reason for cut, reason in absent.items()}
        contestants = [Contestant(cut, one, shape) for cut, one in models.items()]
        for batch in asked.batch_sizes:
            for threads in asked.threads:
                try:
                    timed = side_by_side(contestants, [Conditions(backend, batch, threads)], asked.turns)
                    rows += [asdict(row) for row in timed]
                except fp.FlowpruneError as error:
                    missing[f"{backend}, batch {batch}, {threads} threads"] = str(error)
    return {"network": name, "rows": rows, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(1, 32))
    parser.add_argument("--threads", nargs="+", type=int, default=(1,))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "results/speed/speed.json")
    parser.add_argument("--again", action="store_true", help="time networks that are in the file, too")
    asked = parser.parse_args()
    done = (
        {} if asked.again or not asked.out.exists() else json.loads(asked.out.read_text(encoding="utf-8"))["networks"]
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for name in asked.networks:
        if name not in done:
            done[name] = studied(name, asked)
            content = {"share": SHARE, "turns": asked.turns, "environment": environment(), "networks": done}
            write_text(asked.out, json.dumps(content, indent=1) + "\n")
            print(f"{name}: {len(done[name]['rows'])} rows, {len(done[name]['missing'])} missing", flush=True)


if __name__ == "__main__":
    main()
