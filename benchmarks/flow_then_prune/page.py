"""Write the tables of docs/flow-then-prune.md anew from results/flow-then-prune/*.json.

    python benchmarks/pages.py flow_then_prune [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flow_then_prune.run import WAYS, Way
from written_pages import written

BEGIN, END = "<!-- flow-then-prune:begin -->", "<!-- flow-then-prune:end -->"
MISSING = "not run yet"
SEEDS = (0, 1, 2)
RECIPES = ("digits", "cifar10", "vgg16", "resnet18")
BESIDE = "energy-aware"
"""The way that the others are compared with, seed by seed: the criterion without the flow."""

Result = Mapping[str, Any]
COLUMNS = (
    "way",
    "MACs kept %",
    "parameters kept %",
    "top-1 % dense",
    "after the cut",
    "after fine-tuning",
    f"beside {BESIDE}",
)


def spread(numbers: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation (of the sample)."""
    mean = f"{statistics.mean(numbers):{sign}.2f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.2f}"


def end(result: Result, way: str) -> float:
    """Top-1 after fine-tuning."""
    return float(result["ways"][way]["finetuned"]["top1"])


def cells_of(way: Way, results: Sequence[Result]) -> list[str]:
    """The row of one way over some seeds."""
    if not results:
        return [way.name, *([MISSING] * (len(COLUMNS) - 1))]

    def share(key: str) -> Callable[[Result], float]:
        return lambda result: 100 * result["ways"][way.name]["finetuned"][key] / result["dense"][way.training][key]

    def after_cut(result: Result) -> float:
        pruned = result["ways"][way.name].get("pruned", result["dense"][way.training])
        return float(pruned["top1"])

    return [
        way.name,
        spread([share("macs")(result) for result in results]),
        spread([share("params")(result) for result in results]),
        spread([result["dense"][way.training]["top1"] for result in results]),
        spread([after_cut(result) for result in results]) if way.criterion is not None else "-",
        spread([end(result, way.name) for result in results]),
        "-" if way.name == BESIDE else spread([end(result, way.name) - end(result, BESIDE) for result in results], "+"),
    ]


def table(results: Sequence[Result]) -> str:
    """One row a way."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(cells_of(way, results))} |" for way in WAYS)])


def section(name: str, known: Mapping[int, Result]) -> str:
    """The Markdown of one recipe: over the seeds, then every seed by itself."""
    command = f"python benchmarks/flow_then_prune/run.py benchmarks/flow_then_prune/{name}.yaml"
    left = [seed for seed in SEEDS if seed not in known]
    state = f"`{command}`"
    if known:
        state += f", seeds {', '.join(str(seed) for seed in known)}"
    if left:
        state += f"; seeds {', '.join(str(seed) for seed in left)} {MISSING}: the same command goes on with them"
    parts = [f"### {name}", f"{state}.", table(list(known.values()))]
    for seed, result in known.items() if len(known) > 1 else ():
        file = f"results/flow-then-prune/{name}-seed{seed}.json"
        parts += [f"<details><summary>seed {seed}: <code>{file}</code></summary>", table([result]), "</details>"]
    return "\n\n".join(parts)


def results_in(folder: Path, name: str) -> dict[int, Result]:
    """Seed -> result."""
    files = {seed: folder / f"{name}-seed{seed}.json" for seed in SEEDS}
    return {seed: json.loads(path.read_text(encoding="utf-8")) for seed, path in files.items() if path.exists()}


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    folder = root / "results" / "flow-then-prune"
    parts = [section(name, results_in(folder, name)) for name in RECIPES]
    return written(root / "docs" / "flow-then-prune.md", BEGIN, END, "\n\n".join(parts) + "\n")
