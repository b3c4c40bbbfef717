"""How stable rankings are against the amount and the quality of the images: energy-aware pruning's claim, beside other criteria.

    python benchmarks/one_shot/stability.py resnet20 [--data-dir DIR] [--draws 3] [--only NAME]...

Every criterion scores a pretrained network's channels on 2,560 training images once: the reference. Then it scores them on 8 to
2,560 *other* training images, and on 640 images that are noisy, blurred or from elsewhere (handwritten digits in grey, uniform
noise). Reported is Spearman's rank correlation with the reference, within each coupled group and averaged over the groups, and over
all channels of the network at once, as a global ranking uses them. Where a criterion needs labels, noisy and blurred images keep
theirs, digits have their own, and noise has random ones. CHIP decomposes a matrix for every channel and image; it is given fewer
images (see ``FEWER``). The result file, results/one-shot/stability-NETWORK.json, grows with every measurement; an interrupted
benchmark goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowprune.artifacts.atomic_write import write_text
from flowprune.engine.planning import CoupledModel
from flowprune.reporting import environment
from flowprune.studies.phases.criteria import importance_from
from flowprune.training import Data, load_data

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from one_shot.run import WEIGHTS, begun, command_line  # noqa: E402

CRITERIA: dict[str, tuple[str, dict[str, Any]]] = {
    "nuclear_norm": ("nuclear_norm", {}),
    "nuclear_norm mean reading": ("nuclear_norm", {"reading": "mean"}),
    "hrank": ("hrank", {}),
    "chip": ("chip", {}),
    "taylor": ("taylor", {}),
    "taylor_activation": ("taylor_activation", {}),
}
NUMBERS = (8, 16, 32, 64, 128, 256, 640, 1280, 2560)
REFERENCE, QUALITY = 2560, 640
FEWER = {"chip": {"reference": 640, "quality": 128, "draws": 1}}
"""Of slow criteria: images of the reference and so of the largest number, images of every quality, draws."""
BATCH = 128
Batch = tuple[Tensor, Tensor]


def images_of(data: Data, count: int, draw: int) -> tuple[Tensor, Tensor]:
    """uint8 training images, float in 0..255, and their labels. Draw -1 is the reference's; others share no image with it."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    if draw < 0:
        chosen = order[:count]
    else:
        rest = order[REFERENCE:]
        chosen = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(1 + draw))[:count]]
    ((images, targets),) = data.train.batches([chosen], torch.device("cpu"))
    return images.float(), targets


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Each channel smoothed with a Gaussian of ``sigma`` pixels."""
    reach = torch.arange(-int(3 * sigma), int(3 * sigma) + 1, dtype=torch.float32)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    width = len(reach) // 2
    padded = functional.pad(images, (width,) * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=3)
    return functional.conv2d(rows, kernel[:, None, None, :], groups=3)


def digits_in_colour(count: int, draw: int) -> tuple[Tensor, Tensor]:
    """Handwritten digits of 32 x 32, the same grey in all three channels."""
    digits = load_data("digits", size=32)
    chosen = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(draw))[:count]
    ((images, targets),) = digits.train.batches([chosen], torch.device("cpu"))
    return images.float().expand(-1, 3, -1, -1).contiguous(), targets


def conditions(data: Data, largest: int, quality: int) -> dict[str, Callable[[int], tuple[Tensor, Tensor]]]:
    """Name -> (draw -> images in 0..255 and labels)."""

    def changed(change: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[[int], tuple[Tensor, Tensor]]:
        def make(draw: int) -> tuple[Tensor, Tensor]:
            images, targets = images_of(data, quality, draw)
            return change(images, torch.Generator().manual_seed(draw)).clamp(0, 255), targets

        return make

    def noise(deviation: float) -> Callable[[Tensor, torch.Generator], Tensor]:
        return lambda images, generator: images + 255 * deviation * torch.randn(images.shape, generator=generator)

    def uniform(draw: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(draw)
        return 255 * torch.rand(quality, 3, 32, 32, generator=generator), torch.randint(
            0, 10, (quality,), generator=generator
        )

    found: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
        f"{count} images": (lambda draw, count=count: images_of(data, count, draw))
        for count in NUMBERS
        if count <= largest
    }
    return {
        **found,
        "noise of 0.1": changed(noise(0.1)),
        "noise of 0.3": changed(noise(0.3)),
        "blur of 1 pixel": changed(lambda images, generator: blurred(images, 1.0)),
        "blur of 2 pixels": changed(lambda images, generator: blurred(images, 2.0)),
        "digits": lambda draw: digits_in_colour(quality, draw),
        "random noise": uniform,
    }


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0; equal values share their mean rank."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts + 1) / 2)[inverse]


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation; 0 where one side has no order at all."""
    pair = torch.stack([ranks(first), ranks(second)])
    if bool((pair.var(dim=1) == 0).any()):
        return 0.0
    return float(torch.corrcoef(pair)[0, 1])


def main() -> None:
    arguments, data, model = begun(command_line(__doc__, draws=3))
    example = data.example_input()
    groups = CoupledModel.of(model, example).coupling.groups
    file = arguments.out / f"stability-{arguments.network}.json"
    results: dict[str, Any] = {
        "command": f"python benchmarks/one_shot/stability.py {arguments.network}",
        "network": arguments.network,
        "weights": WEIGHTS[arguments.network],
        "environment": environment(),
        "criteria": {},
    }
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8"))

    def scored(name: str, options: dict[str, Any], images: Tensor, targets: Tensor) -> list[Tensor]:
        ready = data.normalize(images)
        batches = list(zip(ready.split(BATCH), targets.split(BATCH), strict=True))
        return importance_from(name, options, lambda: batches)(model, example, groups)

    for draw in range(arguments.draws):
        for label, (name, options) in CRITERIA.items():
            limits = {"reference": REFERENCE, "quality": QUALITY, "draws": arguments.draws, **FEWER.get(name, {})}
            if (arguments.only and label not in arguments.only) or draw >= limits["draws"]:
                continue
            entry = results["criteria"].setdefault(
                label,
                {"importance": name, "options": options, "images": limits, "reference": None, "conditions": {}},
            )
            if entry["reference"] is None:
                entry["reference"] = [
                    scores.tolist() for scores in scored(name, options, *images_of(data, limits["reference"], -1))
                ]
                write_text(file, json.dumps(results) + "\n")
            reference = [torch.tensor(scores, dtype=torch.float64) for scores in entry["reference"]]
            began = time.process_time()
            for condition, make in conditions(data, limits["reference"], limits["quality"]).items():
                found = entry["conditions"].setdefault(condition, {})
                if str(draw) in found:
                    continue
                scores = scored(name, options, *make(draw))
                within = [spearman(a, b) for a, b in zip(reference, scores, strict=True)]
                found[str(draw)] = {
                    "within_groups": sum(within) / len(within),
                    "all_channels": spearman(torch.cat(reference), torch.cat(scores)),
                }
                write_text(file, json.dumps(results) + "\n")
            shown = ", ".join(
                f"{condition} {values[str(draw)]['within_groups']:.3f}"
                for condition, values in entry["conditions"].items()
            )
            print(f"{label}, draw {draw}: {shown} ({time.process_time() - began:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
