"""Write the tables of docs/comparison.md anew from results/fine-tuned/*.json.

    python benchmarks/pages.py fine_tuned [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fine_tuned.run import NETWORKS, recipe_of
from written_pages import written

from flowprune.studies.comparison.cells import Cell, cells_of
from flowprune.studies.comparison.comparison_recipe import load_comparison_recipe
from flowprune.studies.comparison.summary import markdown_table, summarised

BEGIN, END = "<!-- fine-tuned:begin -->", "<!-- fine-tuned:end -->"


def finished_in(folder: Path, network: str) -> list[tuple[Cell, Mapping[str, Any]]]:
    """The cells whose results are there, in the recipe's order."""
    files = [
        (cell, folder / f"{network}-{cell.name}.json") for cell in cells_of(load_comparison_recipe(recipe_of(network)))
    ]
    return [(cell, json.loads(file.read_text(encoding="utf-8"))) for cell, file in files if file.exists()]


def section(folder: Path, network: str) -> str:
    """The Markdown of one network."""
    finished = finished_in(folder, network)
    command = f"`python benchmarks/fine_tuned/run.py {network}`"
    if not finished:
        return f"### {network}\n\nNot run yet: {command}.\n"
    settings = finished[0][1]["recipe"]["finetuning"]
    epochs = f"{settings['epochs']} epoch" + ("s" if settings["epochs"] > 1 else "")
    said = (
        f"{command}: {epochs} of all training images, batch {settings['batch_size']}, learning rate "
        f"{settings['lr']:g} ({settings['schedule']}), {settings['precision']}; `results/fine-tuned/{network}-*.json`."
    )
    table = markdown_table({"table": [row.as_dict() for row in summarised(finished)]})
    return "\n\n".join([f"### {network}", said, table])


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    folder = root / "results" / "fine-tuned"
    parts = [section(folder, network) for network in NETWORKS]
    return written(root / "docs" / "comparison.md", BEGIN, END, "\n".join(parts))
