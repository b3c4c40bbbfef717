"""Write the tables of docs/comparison.md anew from results/fine-tuned/*.json.

    python benchmarks/fine_tuned_table.py [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuned import NETWORKS, recipe_of
from written_pages import written

from flowprune.comparison.recipe import load_comparison_recipe
from flowprune.comparison.summary import HEADERS, TEXT_COLUMNS, summarised, table_cells

BEGIN, END = "<!-- fine-tuned:begin -->", "<!-- fine-tuned:end -->"


@dataclass(frozen=True)
class Finished:
    """A cell as its result file names it."""

    kind: str
    seed: int
    label: str
    budget: str | None


def finished_in(folder: Path, network: str) -> list[tuple[Finished, Mapping[str, Any]]]:
    """The cells whose results are there, seed by seed in the recipe's order."""
    found = []
    for file in sorted(folder.glob(f"{network}-*.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        cell = results["comparison"]
        found.append((Finished(cell["kind"], cell["seed"], cell["method"], cell["budget"]), results))
    recipe = load_comparison_recipe(recipe_of(network))
    order = ["control", *(method.name for method in recipe.methods)]
    order += [f"scratch-{method.name}" for method in recipe.scratch_methods]
    return sorted(found, key=lambda one: (one[0].seed, order.index(one[0].label)))


def section(folder: Path, network: str) -> str:
    """The Markdown of one network."""
    finished = finished_in(folder, network)
    command = f"`python benchmarks/fine_tuned.py {network}`"
    if not finished:
        return f"### {network}\n\nNot run yet: {command}.\n"
    rows = table_cells([row.as_dict() for row in summarised(finished)])  # type: ignore[arg-type]
    lines = [
        f"| {' | '.join(HEADERS)} |",
        f"|{' --- |' * TEXT_COLUMNS}{' ---: |' * (len(HEADERS) - TEXT_COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    settings = finished[0][1]["recipe"]["finetuning"]
    said = (
        f"{command}: {settings['epochs']} epochs of all training images, batch {settings['batch_size']}, learning rate "
        f"{settings['lr']:g} ({settings['schedule']}), {settings['precision']}; `results/fine-tuned/{network}-*.json`."
    )
    return "\n\n".join([f"### {network}", said, "\n".join(lines)]) + "\n"


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    folder = root / "results" / "fine-tuned"
    parts = [section(folder, network) for network in NETWORKS]
    return written(root / "docs" / "comparison.md", BEGIN, END, "\n".join(parts))


if __name__ == "__main__":
    sys.exit(main())
