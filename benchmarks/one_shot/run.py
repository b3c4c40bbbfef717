"""One-shot pruning without fine-tuning: every registered criterion at 10 to 50 % fewer MACs, on the real CIFAR-10 test set.

    python benchmarks/one_shot/run.py resnet20 [--data-dir DIR] [--draws 5] [--only NAME]...
    python benchmarks/one_shot/run.py resnet56 --precision bfloat16     # the test only; half the time where processors compute
    in it

A pretrained network is cut to each budget by each criterion, globally, and tested on all 10,000 test images. Those that look at
data see 5 batches of 128 training images and are repeated with other images (``draws``), those of chance with other seeds. The
result file, results/one-shot/NETWORK.json, is written after every criterion and draw: an interrupted benchmark goes on where
it stopped. The draws are the outer loop, so that whatever is there compares all criteria.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowprune.artifacts.atomic_write import write_text
from flowprune.methods.importance import REGISTRY
from flowprune.models import create
from flowprune.pruning import plan, prune
from flowprune.reporting import environment
from flowprune.studies.phases.criteria import importance_from
from flowprune.training import Data, load_data
from flowprune.training.locating import data_root

WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
KEPT = (0.9, 0.8, 0.7, 0.6, 0.5)
BATCHES, BATCH_SIZE = 5, 128
TEST_BATCHES = {"float32": 50, "bfloat16": 200}
"""Images a forward: measured fastest on a CPU, where a batch's activations then stay in its cache."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nuclear_norm mean reading": ("nuclear_norm", {"reading": "mean"}),
    "nuclear_norm by L2": ("nuclear_norm", {"normalize": "l2"}),
    "nuclear_norm by mean": ("nuclear_norm", {"normalize": "mean"}),
}
"""Beside the registered criteria with their defaults: what energy-aware pruning leaves open."""


class Remembered:
    """A criterion asked once: its scores serve every budget."""

    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion
        self.scores: dict[tuple[str, ...], list[torch.Tensor]] = {}
        self.seconds = 0.0

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[Any]) -> list[torch.Tensor]:
        key = tuple(f"{group.name}:{group.channels}" for group in groups)
        if key not in self.scores:
            began = time.process_time()
            self.scores[key] = list(self.criterion(model, inputs, groups))
            self.seconds += time.process_time() - began
        return self.scores[key]


def criteria() -> dict[str, tuple[str, dict[str, Any]]]:
    """Label -> registered name and options."""
    return {**{name: (name, {}) for name in REGISTRY}, **VARIANTS}


def is_drawn(name: str) -> bool:
    """Whether chance has a part in it: which images it sees, or its seed."""
    criterion = REGISTRY[name]
    return bool(getattr(criterion, "needs_data", False)) or "seed" in inspect.signature(criterion).parameters


def pretrained(network: str, root: Path) -> nn.Module:
    """The network with its published weights, in evaluation mode."""
    return create(network, weights=root / "weights" / WEIGHTS[network]).eval()


Batches = list[tuple[torch.Tensor, torch.Tensor]]


def test_batches(data: Data, precision: str = "float32") -> Batches:
    """All test images, normalised once, in the type and memory format that they are tested in."""
    ready = data.batches("test", batch_size=TEST_BATCHES[precision])
    return [
        (images.to(getattr(torch, precision), memory_format=torch.channels_last), targets) for images, targets in ready
    ]


def tested(model: nn.Module, batches: Batches) -> float:
    """Top-1 in per cent, in the type of the images. Batch norms are folded into the convolutions of a copy first: the same
    function, a quarter faster."""
    quick = copy.deepcopy(model).eval()
    for module in list(quick.modules()):
        children = dict(module.named_children())
        for name, child in children.items():
            norm = children.get(name.replace("conv", "bn"))
            if name.startswith("conv") and isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, norm))
                setattr(module, name.replace("conv", "bn"), nn.Identity())
    quick.to(batches[0][0].dtype, memory_format=torch.channels_last)
    hits, images = 0, 0
    with torch.inference_mode():
        for inputs, targets in batches:
            hits += int((quick(inputs).argmax(1) == targets).sum())
            images += len(targets)
    return 100 * hits / images


def measured(
    model: nn.Module, data: Data, tests: Batches, name: str, options: dict[str, Any], draw: int
) -> dict[str, Any]:
    """What one criterion does with one draw, at every budget."""
    chance = {"seed": draw} if "seed" in inspect.signature(REGISTRY[name]).parameters else {}

    def batches() -> list[Any]:
        return list(data.batches("train", batch_size=BATCH_SIZE, count=BATCHES, seed=draw))

    criterion = Remembered(importance_from(name, {**options, **chance}, batches))
    example = data.example_input()
    points = []
    for kept in KEPT:
        made = plan(model, example, importance=criterion, macs=kept)
        small = prune(model, made).eval()
        points.append(
            {
                "asked": kept,
                "macs": made.macs[1],
                "params": made.params[1],
                "filters_removed": made.filters_removed,
                "top1": tested(small, tests),
            }
        )
    return {"points": points, "scoring_cpu_seconds": round(criterion.seconds, 2)}


def command_line(description: str | None, draws: int) -> argparse.ArgumentParser:
    """Of a benchmark on a pretrained network."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("network", choices=sorted(WEIGHTS))
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--draws", type=int, default=draws)
    parser.add_argument("--only", action="append", default=[], help="label of a criterion; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results/one-shot"))
    return parser


def begun(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Data, nn.Module]:
    """What the command line says, CIFAR-10 and the network; one thread."""
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("cifar10", data_dir=arguments.data_dir, normalize="imagenet")
    model = pretrained(arguments.network, data_root("cifar10", arguments.data_dir))
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments, data, model


def main() -> None:
    parser = command_line(__doc__, draws=5)
    parser.add_argument("--precision", choices=sorted(TEST_BATCHES), default="float32", help="of the test")
    arguments, data, model = begun(parser)
    tests = test_batches(data, arguments.precision)
    file = arguments.out / f"{arguments.network}.json"
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["precision"] != arguments.precision:
            raise SystemExit(
                f"{file} was tested in {results['precision']}; go on with --precision {results['precision']}"
            )
    else:
        dense = plan(model, data.example_input(), importance=REGISTRY["l2"](), channels=1.0)  # type: ignore[call-arg]
        results = {
            "command": f"python benchmarks/one_shot/run.py {arguments.network}"
            + (" --precision bfloat16" if arguments.precision == "bfloat16" else ""),
            "precision": arguments.precision,
            "network": arguments.network,
            "weights": WEIGHTS[arguments.network],
            "data": {"name": "cifar10", "normalize": "imagenet", "test_images": len(data.test)},
            "calibration": {"batches": BATCHES, "batch_size": BATCH_SIZE},
            "environment": environment(),
            "dense": {"top1": tested(model, tests), "macs": dense.macs[0], "params": dense.params[0]},
            "criteria": {},
        }
    for draw in range(arguments.draws):
        for label, (name, options) in criteria().items():
            if (draw and not is_drawn(name)) or (arguments.only and label not in arguments.only):
                continue
            entry = results["criteria"].setdefault(label, {"importance": name, "options": options, "draws": {}})
            if str(draw) in entry["draws"]:
                continue
            began = time.process_time()
            entry["draws"][str(draw)] = measured(model, data, tests, name, options, draw)
            write_text(file, json.dumps(results, indent=1) + "\n")
            tops = ", ".join(f"{point['top1']:.2f}" for point in entry["draws"][str(draw)]["points"])
            print(f"{label}, draw {draw}: {tops} ({time.process_time() - began:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
