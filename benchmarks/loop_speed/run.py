"""How fast the training loop is beside a plain PyTorch loop, and its evaluation beside bare forwards.

    python benchmarks/loop_speed/run.py [--data-dir DIR] [--out results/loop-speed/loop-speed.json] [--table docs/training.md]

On CIFAR-10, batches of 128, float32, cropped and mirrored. *plain* is what people write: torchvision's dataset and transforms, a
``DataLoader`` with 0 or 2 workers, SGD, the loss and the right answers counted; also with the network in channels-last format, as
flowprune has it by itself. All ways take turns of the same number of steps. Each plain one draws from a loader that never ends: at
the start of a turn its workers have as many batches ready as at its end, and no turn pays for starting them. A turn of flowprune
is a whole call of ``train`` of one epoch of so many steps; its images a second are those it reports. The ratio is the median over
the turns of flowprune's by that of the fastest plain way. Evaluation: ``evaluate`` by forwards on batches that are ready. Last,
what the loop's own measurement says of float32 and bfloat16 here. The clock is the wall's: nothing may run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from written_pages import written

import flowprune as fp
from flowprune.reporting import environment
from flowprune.training import Data, TrainingSettings, evaluate, load_data, train
from flowprune.training.locating import data_folder
from flowprune.training.precision import measured_precision
from flowprune.training.splits import drawn

NETWORKS = ("resnet20", "resnet56")
BATCH = 128
EVALUATED, EVALUATED_BATCH = 1000, 125
FLOWPRUNE = "flowprune"
PLAIN = {
    "plain, 0 workers": (0, False),
    "plain, 2 workers": (2, False),
    "plain, 0 workers, channels last": (0, True),
    "plain, 2 workers, channels last": (2, True),
}
BEGIN, END = "<!-- loop_speed: begin -->", "<!-- loop_speed: end -->"

Turn = Callable[[int], float]
"""So many steps -> images a second."""


def plain_dataset(data: Data, data_dir: Path | None) -> datasets.CIFAR10:
    """The training images as a plain loop has them: decoded one by one, cropped, mirrored, normalized."""
    steps = [
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(data.normalize.mean, data.normalize.deviation),
    ]
    root = data_folder("cifar10", data_dir, "cifar-10-batches-py", []).parent
    return datasets.CIFAR10(str(root), train=True, transform=transforms.Compose(steps))


def plain(name: str, dataset: datasets.CIFAR10, workers: int, channels_last: bool) -> Turn:
    """A plain PyTorch loop."""
    model = network(name)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000)
    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
    )
    batches = endless(loader)

    def turn(steps: int) -> float:
        model.train()
        seen, loss_sum, right = 0, 0.0, 0
        began = time.perf_counter()
        for images, targets in islice(batches, steps):
            optimizer.zero_grad()
            logits = model(images.to(memory_format=layout))
            loss = functional.cross_entropy(logits, targets)
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(targets)
            loss_sum += loss.item() * len(targets)
            right += int((logits.argmax(1) == targets).sum())
        rate = seen / (time.perf_counter() - began)
        if workers:
            time.sleep(0.5)  # they fill their queue again, beside nobody
        return rate

    return turn


def endless(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def ours(name: str, data: Data) -> Turn:
    """Calls of ``train``."""
    model = network(name)
    few = drawn(data.test, EVALUATED_BATCH, 0)  # evaluated after the last epoch, outside the clock

    def turn(steps: int) -> float:
        part = replace(data, train=drawn(data.train, steps * BATCH, 0), test=few)
        settings = TrainingSettings(epochs=1, batch_size=BATCH, precision="float32")
        return float(train(model, part, settings, progress=False).history[-1]["images_per_second"])

    return turn


def evaluations(name: str, data: Data) -> dict[str, Callable[[], float]]:
    """``evaluate`` and bare forwards over the same images: images a second."""
    model = network(name).to(memory_format=torch.channels_last)
    part = replace(data, test=drawn(data.test, EVALUATED, 0))
    ready = [
        images.contiguous(memory_format=torch.channels_last)
        for images, _ in part.batches("test", batch_size=EVALUATED_BATCH)
    ]

    def whole() -> None:
        evaluate(model, part)

    def bare() -> None:
        model.eval()
        with torch.no_grad():
            for images in ready:
                model(images)

    def clocked(work: Callable[[], None]) -> float:
        began = time.perf_counter()
        work()
        return EVALUATED / (time.perf_counter() - began)

    return {"evaluate": lambda: clocked(whole), "bare forward": lambda: clocked(bare)}


def network(name: str) -> nn.Module:
    """With the same new weights every time."""
    torch.manual_seed(0)
    return fp.models.create(name, classes=10)


def in_turns(ways: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """The rates of every way, turn by turn; each turn begins with another one."""
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(ways[name]())
    return found


def fastest_plain(rates: dict[str, list[float]]) -> str:
    """The plain way with the highest median."""
    return max(PLAIN, key=lambda way: statistics.median(rates[way]))


def ratio(rates: dict[str, list[float]], way: str, by: str) -> float:
    """Median over the turns."""
    return statistics.median(a / b for a, b in zip(rates[way], rates[by], strict=True))


def row(name: str, data: Data, dataset: datasets.CIFAR10, turns: int, seconds: float) -> dict[str, Any]:
    """Everything about one network."""
    ways = {FLOWPRUNE: ours(name, data)}
    ways |= {way: plain(name, dataset, *options) for way, options in PLAIN.items()}
    for turn in ways.values():
        turn(2)  # kernels are looked for, workers start
    steps = max(2, round(seconds * ways[FLOWPRUNE](3) / BATCH))
    rates = in_turns({way: lambda turn=turn: turn(steps) for way, turn in ways.items()}, turns)
    checks = evaluations(name, data)
    for check in checks.values():
        check()
    evaluated = in_turns(checks, turns)
    settings = TrainingSettings()
    measured = measured_precision(
        Accelerator(), [network(name)], data, batch_size=settings.batch_size, epochs=settings.epochs
    )
    best = fastest_plain(rates)
    return {
        "network": name,
        "batch": BATCH,
        "steps": steps,
        "images_a_second": rates,
        "fastest_plain": best,
        "ratio": ratio(rates, FLOWPRUNE, best),
        "evaluation": {
            "images": EVALUATED,
            "batch": EVALUATED_BATCH,
            "images_a_second": evaluated,
            "ratio": ratio(evaluated, "evaluate", "bare forward"),
        },
        "precision": asdict(measured),
    }


def table(record: dict[str, Any]) -> str:
    """Markdown: medians of images a second, and the ratios."""
    names = [found["network"] for found in record["networks"]]
    lines = [f"| images a second | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for way in (FLOWPRUNE, *PLAIN):
        medians = [statistics.median(found["images_a_second"][way]) for found in record["networks"]]
        lines.append(f"| {way} | {' | '.join(f'{median:.0f}' for median in medians)} |")
    ratios = [f"**{found['ratio']:.2f}**" for found in record["networks"]]
    lines.append(f"| flowprune by the fastest plain way | {' | '.join(ratios)} |")
    for way in ("evaluate", "bare forward"):
        medians = [statistics.median(found["evaluation"]["images_a_second"][way]) for found in record["networks"]]
        lines.append(f"| {way} | {' | '.join(f'{median:.0f}' for median in medians)} |")
    ratios = [f"**{found['evaluation']['ratio']:.2f}**" for found in record["networks"]]
    lines.append(f"| evaluation by the bare forward | {' | '.join(ratios)} |")
    gains = []
    for found in record["networks"]:
        seconds = found["precision"]["seconds_an_image"]
        gain = f"{seconds['float32'] / seconds['bfloat16']:.2f}" if "bfloat16" in seconds else "-"
        gains.append(f"{gain} ({found['precision']['precision']})")
    lines.append(f"| bfloat16 by float32 (and what `auto` takes) | {' | '.join(gains)} |")
    where = record["environment"]
    lines += [
        "",
        f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads, torch {where['packages']['torch']}; medians of "
        f"{record['turns']} turns; `results/loop-speed/loop-speed.json`.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn, about")
    parser.add_argument("--threads", type=int, help="torch's own choice if left out")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--out", type=Path, default=Path("results/loop-speed/loop-speed.json"))
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    data = load_data("cifar10", data_dir=asked.data_dir)
    dataset = plain_dataset(data, asked.data_dir)
    load = [os.getloadavg()]
    rows = []
    for name in [asked.only] if asked.only else NETWORKS:
        rows.append(row(name, data, dataset, asked.turns, asked.seconds))
        load.append(os.getloadavg())
        print(f"{name}: training {rows[-1]['ratio']:.2f}, evaluation {rows[-1]['evaluation']['ratio']:.2f}", flush=True)
    record = {
        "command": f"python benchmarks/loop_speed/run.py --turns {asked.turns} --seconds {asked.seconds:g}",
        "environment": environment(),
        # Over 1, 5 and 15 minutes, before the first network and after each: it is a matter of the clock.
        "load_averages": load,
        "turns": asked.turns,
        "networks": rows,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if asked.table:
        written(asked.table, BEGIN, END, f"{table(record)}\n")
    print(table(record))


if __name__ == "__main__":
    main()
