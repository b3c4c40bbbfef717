"""Time nuclear-norm scoring against one plain forward pass and against the loop over single maps that HRank-style code runs.

    python benchmarks/nuclear_norm/run.py [--out results/nuclear-norm/nuclear-norm.json]

ResNet-56 and VGG-16 (32x32) with weights by seed, 640 random images in 5 batches of 128, everything in one process, each
repetition of all ways in turn; medians. The loop (one decomposition an image and a channel) is timed on the first 32 images
and multiplied up: its time is proportional to the images. Peak memory comes from a process of its own for each number of
images. With FLOWPRUNE_DATA set, the errors are measured, too: pretrained ResNet-56, 640 training images, the scores of float64 as
reference. Then ``python benchmarks/pages.py nuclear_norm`` writes the tables of docs/importance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import trace
from flowprune.methods.importance import NuclearNorm
from flowprune.methods.importance._maps.map_stages import maps_at
from flowprune.methods.importance._maps.map_watch import evaluation_shadow, watch_maps
from flowprune.models import create
from flowprune.reporting.environment import environment
from flowprune.training import load_data

NETWORKS = ("resnet56", "vgg16")
IMAGES, BATCH, LOOPED = 640, 128, 32
WAYS: dict[str, dict[str, Any]] = {
    "stacked": {},
    "stacked, 256 positions": {"positions": 256},
    "mean": {"reading": "mean"},
    "stacked, float64": {"dtype": torch.float64},
}


def batches_of(images: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(BATCH, 3, 32, 32, generator=generator) for _ in range(images // BATCH)]


def network(name: str) -> tuple[nn.Module, Sequence[CoupledGroup]]:
    torch.manual_seed(0)
    model = create(name).eval()
    return model, CoupledModel.of(model, torch.zeros(1, 3, 32, 32)).coupling.groups


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """What the clock says, and what the processor worked (of all threads): the second hardly depends on other programs."""
    begin, worked = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, time.process_time() - worked


def forward(model: nn.Module, batches: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            model(batch)


def loop(model: nn.Module, groups: Sequence[CoupledGroup], images: Tensor, of_map: Callable[[Tensor], Tensor]) -> None:
    """Every map on its own, as HRank's published code goes about it."""
    example = torch.zeros(1, 3, 32, 32, device=images.device)
    positions = {feature.position for group in groups for feature in maps_at(group, "activated")}
    scores: list[list[float]] = []

    def see(position: tuple[int, int], maps: Tensor) -> None:
        maps = maps if maps.ndim == 4 else maps[:, :, None, None]
        scores.extend([of_map(maps[i, j]).item() for j in range(maps.shape[1])] for i in range(maps.shape[0]))

    watch_maps(evaluation_shadow(model), trace(model, example), images, positions, see)


def timed(name: str, device: str, repetitions: int) -> dict[str, Any]:
    model, groups = network(name)
    model = model.to(device)
    example = torch.zeros(1, 3, 32, 32, device=device)
    batches = [batch.to(device) for batch in batches_of(IMAGES)]
    ways: dict[str, Callable[[], object]] = {"forward": lambda: forward(model, batches)}
    for way, options in WAYS.items():
        ways[way] = lambda options=options: NuclearNorm(batches, **options)(model, example, groups)
    forward(model, batches)
    clock: dict[str, list[tuple[float, float]]] = {}
    for repetition in range(repetitions):
        for way, work in ways.items():
            if repetition == 0 or way not in ("mean", "stacked, float64"):  # these two once: they are not the default
                clock.setdefault(way, []).append(seconds(work))
    few = batches[0][:LOOPED]
    for way, of_map in (
        ("loop of matrix_rank", torch.linalg.matrix_rank),
        ("loop of svdvals", lambda map: torch.linalg.svdvals(map).sum()),
    ):
        found = seconds(lambda of_map=of_map: loop(model, groups, few, of_map))
        clock[way] = [(found[0] * IMAGES / LOOPED, found[1] * IMAGES / LOOPED)]
    channels = sum(len(feature.indices) for group in groups for feature in maps_at(group, "activated"))
    return {
        "channels": channels,
        "seconds": {way: statistics.median(wall for wall, _ in found) for way, found in clock.items()},
        "processor seconds": {way: statistics.median(work for _, work in found) for way, found in clock.items()},
    }


def peak_memory(name: str, images: int) -> float:
    """GiB that scoring adds to the peak of a process of its own."""
    command = [sys.executable, __file__, "--memory", name, "--images", str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def added_memory(name: str, images: int) -> float:
    model, groups = network(name)
    forward(model, batches_of(BATCH))
    before = peak()
    generator = torch.Generator().manual_seed(0)
    stream = (torch.randn(BATCH, 3, 32, 32, generator=generator) for _ in range(images // BATCH))
    NuclearNorm(stream)(model, torch.zeros(1, 3, 32, 32), groups)
    return peak() - before


def peak() -> float:
    """GiB this process took at most until now, on Linux; what ``getrusage`` says includes the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def errors(data_dir: Path) -> dict[str, dict[str, float]]:
    """How far each way's scores are from the same reading's in float64, over all channels of pretrained ResNet-56."""
    model = create("resnet56", weights=data_dir / "weights" / "resnet56-4bfd9763.th").eval()
    data = load_data("cifar10", data_dir=data_dir)
    batches = [x for x, _ in data.batches("train", batch_size=BATCH, count=IMAGES // BATCH, seed=0)]
    example = batches[0][:1]
    groups = CoupledModel.of(model, example).coupling.groups

    def scores(**options: Any) -> np.ndarray:
        return torch.cat(NuclearNorm(batches, **options)(model, example, groups)).numpy()

    exact = scores(dtype=torch.float64)
    found = {
        "stacked": scores(),
        "stacked, 256 positions": scores(positions=256),
        "stacked, 64 positions": scores(positions=64),
        "stacked, first 128 images": scores(images=128),
        "mean": scores(reading="mean"),
    }
    return {way: compared(one, exact) for way, one in found.items()}


def compared(scores: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    living = exact > 0
    leaving = len(exact) * 4 // 10
    removed, reference = (set(s.argsort(kind="stable")[:leaving].tolist()) for s in (scores, exact))
    ranks = (s.argsort(kind="stable").argsort() for s in (scores, exact))
    return {
        "largest relative error": float(np.abs(scores[living] / exact[living] - 1).max()),
        "Spearman": float(np.corrcoef(*ranks)[0, 1]),
        "same among the lowest 40 %": len(removed & reference) / leaving,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/nuclear-norm/nuclear-norm.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=IMAGES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        print(added_memory(asked.memory, asked.images))
        return
    result: dict[str, Any] = {"environment": environment(), "device": asked.device, "images": IMAGES, "networks": {}}
    for name in NETWORKS:
        result["networks"][name] = timed(name, asked.device, asked.repetitions)
        print(name, json.dumps(result["networks"][name]["seconds"]))
    if asked.device == "cpu" and sys.platform == "linux":
        result["memory"] = {str(images): peak_memory("resnet56", images) for images in (IMAGES, 3 * IMAGES)}
    if os.environ.get("FLOWPRUNE_DATA"):
        result["errors"] = errors(Path(os.environ["FLOWPRUNE_DATA"]))
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {asked.out}")


if __name__ == "__main__":
    main()
