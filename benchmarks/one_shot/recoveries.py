"""What comes back without training: one cut, then refits on calibration images, on the real CIFAR-10 test set.

    python benchmarks/one_shot/recoveries.py resnet20 [--data-dir DIR] [--draws 5] [--only CRITERION]... [--list]
    python benchmarks/one_shot/recoveries.py resnet56 --precision bfloat16

A pretrained network is cut to each budget by each criterion and recovered in each way: not at all, by batch norms estimated anew,
by least squares, and by both in turn. A draw is 5 batches of 128 training images: criteria that look at data and all recoveries
see these (batch norms as padded crops, like the training of the weights); chance draws its channels by its number. The weights
have seen all training images, so test images 0 to 1,999 choose the ridge and which layers are refitted (once a network, L2 at
40 % fewer MACs), and the other 8,000 report. Every cell is a file of results/one-shot/recoveries/NETWORK; an interrupted study goes
on where it stopped, and ``--list`` says what is missing. The draws are the outer loop, and the budgets the next one, so that
whatever is there compares all criteria.

Why crops: what batch norms do by themselves is measured on the choosing images, too (norms.json), with statistics of the
calibration images as they are, and of crops of these as in that training (black borders of 4 pixels, mirrored by chance).
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.artifacts.atomic_write import write_text
from flowprune.methods.recovery import BatchNorm, LeastSquares, recover
from flowprune.pruning import plan, prune
from flowprune.reporting import environment
from flowprune.studies.phases.criteria import importance_from
from flowprune.training import Data
from flowprune.training.augmentation import augment, draws
from flowprune.training.settings import Augmentation

# The study's other files are found from the folder above; files of this one hide no library of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from one_shot.recovery_tables import CRITERIA, DRAWS, KEPT, WAYS  # noqa: E402
from one_shot.run import (  # noqa: E402
    BATCH_SIZE,
    BATCHES,
    TEST_BATCHES,
    WEIGHTS,
    Batches,
    Remembered,
    begun,
    command_line,
    test_batches,
    tested,
)

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
CHOOSING = 2000
"""Test images that choose; the others report."""
CHOSEN_AT = ("l2", 0.6, 0)

Cell = tuple[str, float, int]
"""Criterion, share of the MACs kept, draw."""


def cells(draws: int) -> Iterator[Cell]:
    """All of them, in the order in which they are measured."""
    return ((criterion, kept, draw) for draw in range(draws) for kept in KEPT for criterion in CRITERIA)


def file_of(folder: Path, cell: Cell) -> Path:
    """Where a cell's result is."""
    criterion, kept, draw = cell
    return folder / f"{criterion}-{round(100 * (1 - kept))}-draw{draw}.json"


def known(folder: Path, cell: Cell) -> dict[str, float]:
    """Top-1 by the way to recover, as far as a cell was measured."""
    file = file_of(folder, cell)
    return dict(json.loads(file.read_text(encoding="utf-8"))["top1"]) if file.exists() else {}


def calibration(data: Data, draw: int) -> list[Any]:
    """5 batches of 128 training images."""
    return list(data.batches("train", batch_size=BATCH_SIZE, count=BATCHES, seed=draw))


def crops(data: Data, draw: int) -> list[Any]:
    """The same images cropped and mirrored as those that the weights were trained on."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(draw))
    chosen = list(order.split(BATCH_SIZE))[:BATCHES]
    drawn = draws(Augmentation(crop=4, flip=True), chosen, torch.Generator().manual_seed(draw))
    raw = data.train.batches(chosen, torch.device("cpu"))
    return [
        (data.normalize(augment(images, 4, how)), targets) for (images, targets), how in zip(raw, drawn, strict=True)
    ]


def norms_alone(model: nn.Module, data: Data, tests: Batches, options: dict[str, Any]) -> dict[str, Any]:
    """Top-1 on the choosing images with batch norms estimated anew, of the dense network and of a cut behind its refit."""
    name, kept, draw = CHOSEN_AT
    made = plan(model, data.example_input(), importance=criterion_of(name, data, draw), macs=kept)
    small, images = prune(model, made).eval(), calibration(data, draw)
    refitted = recover(small, model, made, images, recovery=LeastSquares(**options))
    found: dict[str, Any] = {"images": [0, CHOOSING], "cell": list(CHOSEN_AT)}
    for label, network in (("dense", model), ("least_squares", refitted)):
        found[label] = {"none": tested(network, tests)}
        for kind, seen in (("images as they are", images), ("padded crops", crops(data, draw))):
            anew = copy.deepcopy(network)
            found[label][kind] = tested(BatchNorm().prepare(anew, model, made, seen).eval(), tests)
    return found


def criterion_of(name: str, data: Data, draw: int) -> Remembered:
    """The criterion, asked once for all budgets."""
    return Remembered(
        importance_from(name, {"seed": draw} if name == "random" else {}, lambda: calibration(data, draw))
    )


def choice(model: nn.Module, data: Data, tests: Batches, settings: dict[str, Any]) -> dict[str, Any]:
    """Top-1 on the choosing images for every ridge, for all layers by the best one, and the best of these."""
    name, kept, draw = CHOSEN_AT
    made = plan(model, data.example_input(), importance=criterion_of(name, data, draw), macs=kept)
    small, images = prune(model, made).eval(), calibration(data, draw)
    tried: list[dict[str, Any]] = []

    def attempt(layers: Any, ridge: float) -> None:
        refitted = recover(small, model, made, images, recovery=LeastSquares(ridge=ridge, layers=layers))
        tried.append({"layers": layers, "ridge": ridge, "top1": tested(refitted, tests)})
        print(f"{layers}, ridge {ridge:g}: {tried[-1]['top1']:.2f} on the images that choose", flush=True)

    for ridge in RIDGES:
        attempt("consumers", ridge)
    attempt("all", max(tried, key=lambda one: float(one["top1"]))["ridge"])
    best = max(tried, key=lambda one: float(one["top1"]))
    return {**settings, "images": [0, CHOOSING], "cell": list(CHOSEN_AT), "tried": tried, "chosen": best}


def measured(
    model: nn.Module,
    data: Data,
    tests: Batches,
    criterion: Remembered,
    cell: Cell,
    options: dict[str, Any],
    known: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One cell: top-1 of the cut as it is, and recovered in three ways; what is ``known`` of it already is not tested again."""
    _, kept, draw = cell
    began = time.process_time()
    made = plan(model, data.example_input(), importance=criterion, macs=kept)
    small, images, cropped = prune(model, made).eval(), calibration(data, draw), crops(data, draw)
    refit = LeastSquares(**options)
    refitted = recover(small, model, made, images, recovery=refit)
    found = {
        "none": small,
        "batch_norm": recover(small, model, made, cropped, recovery=BatchNorm()),
        "least_squares": refitted,
        "least_squares+batch_norm": recover(refitted, model, made, cropped, recovery=BatchNorm()),
    }
    assert not refit.left, refit.left
    top1 = dict(known or {})
    return {
        "asked": kept,
        "macs": made.macs[1],
        "params": made.params[1],
        "top1": {
            **top1,
            **{name: tested(network.eval(), tests) for name, network in found.items() if name not in top1},
        },
        "errors": {name: [errors.before, errors.after] for name, errors in refit.refits.items()},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main() -> None:
    parser = command_line(__doc__, draws=DRAWS)
    parser.add_argument("--precision", choices=sorted(TEST_BATCHES), default="float32", help="of the test")
    parser.add_argument("--list", action="store_true", help="name the cells that are missing, and run nothing")
    given = parser.parse_args()
    folder = given.out / "recoveries" / given.network
    missing = [
        cell
        for cell in cells(given.draws)
        if not set(WAYS) <= set(known(folder, cell)) and (not given.only or cell[0] in given.only)
    ]
    if given.list:
        print("\n".join(file_of(folder, cell).stem for cell in missing) or "nothing is missing")
        return
    arguments, data, model = begun(parser)
    folder.mkdir(parents=True, exist_ok=True)
    everything = test_batches(data, arguments.precision)
    images, targets = (torch.cat(part) for part in zip(*everything, strict=True))
    batch = TEST_BATCHES[arguments.precision]
    choosing, reporting = (
        list(zip(images[part].split(batch), targets[part].split(batch), strict=True))
        for part in (slice(CHOOSING), slice(CHOOSING, None))
    )
    settings = {
        "command": f"python benchmarks/one_shot/recoveries.py {arguments.network}"
        + (" --precision bfloat16" if arguments.precision == "bfloat16" else ""),
        "network": arguments.network,
        "weights": WEIGHTS[arguments.network],
        "precision": arguments.precision,
        "calibration": {"batches": BATCHES, "batch_size": BATCH_SIZE},
    }
    choice_file = folder / "choice.json"
    if not choice_file.exists():
        whole = plan(model, data.example_input(), importance=criterion_of("l2", data, 0), channels=1.0)
        dense = {"top1": tested(model, reporting), "macs": whole.macs[0], "params": whole.params[0]}
        chosen = {**choice(model, data, choosing, settings), "dense": dense, "environment": environment()}
        write_text(choice_file, json.dumps(chosen, indent=1) + "\n")
    chosen = json.loads(choice_file.read_text(encoding="utf-8"))
    if chosen["precision"] != arguments.precision:
        raise SystemExit(f"{folder} was tested in {chosen['precision']}; go on with --precision {chosen['precision']}")
    options = {key: chosen["chosen"][key] for key in ("ridge", "layers")}
    if not (folder / "norms.json").exists():
        alone = {**settings, **norms_alone(model, data, choosing, options)}
        write_text(folder / "norms.json", json.dumps(alone, indent=1) + "\n")
        print(f"batch norms alone: {alone['dense']}, {alone['least_squares']}", flush=True)
    asked: dict[tuple[str, int], Remembered] = {}
    for cell in missing:
        name, _, draw = cell
        criterion = asked.setdefault((name, draw), criterion_of(name, data, draw))
        found = measured(model, data, reporting, criterion, cell, options, known(folder, cell))
        record = {**settings, "criterion": name, "draw": draw, "test_images": [CHOOSING, len(data.test)], **found}
        write_text(file_of(folder, cell), json.dumps({**record, "least_squares": options}, indent=1) + "\n")
        shown = ", ".join(f"{way} {top1:.2f}" for way, top1 in found["top1"].items())
        print(f"{file_of(folder, cell).stem}: {shown} ({found['cpu_seconds']:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
