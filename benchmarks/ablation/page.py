"""Write the tables of docs/ablation.md anew from results/ablation/*.json and results/ablation-full/*.json.

    python benchmarks/pages.py ablation [--check]

A cell without a result stands in the tables as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation.run import DEFAULT, FULL, NONE, SHORT, THRESHOLDS, Cell, Setting, beside, cells, grid, seeds, shares
from written_pages import header, written

BEGIN, END = "<!-- ablation:begin -->", "<!-- ablation:end -->"
MISSING = "not run yet"
Records = Mapping[Cell, Mapping[str, Any]]

SETTING = ("terms", "share", "where shapes change", "reduction", "weight decay", "seed")
FOUND = (
    "top-1 %",
    "sum of mean abs d",
    "median abs d / abs Y",
    "dead (0.1)",
    "dead (0.01)",
    "silent",
    "sparsity %",
)
WAYS = ((False, "coupled groups only"), (True, "`branches=True`"), ("always", '`branches="always"`'))


def records_in(folder: Path, setting: Setting) -> dict[Cell, dict[str, Any]]:
    """The results of the cells that are there; the program ends where one is of another setting or no cell's."""
    found: dict[Cell, dict[str, Any]] = {}
    by_name = {cell.name: cell for cell in cells()}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["setting"] != setting.described() or path.stem not in by_name:
            sys.exit(f"{path} is no cell of the ablation in this setting")
        found[by_name[path.stem]] = record
    return found


def setting_of(cell: Cell) -> list[str]:
    """The cell in words."""
    share = f"{cell.share} %" if cell.share else "-"
    return [cell.terms, share, cell.across or "-", cell.reduction or "-", f"{cell.weight_decay:g}", str(cell.seed)]


def found_in(record: Mapping[str, Any]) -> list[str]:
    """What the trained network is, by the columns ``FOUND``."""
    network = record["network"]
    relative = [value for value in network["flow_relative"] if value is not None]
    return [
        f"{record['top1']:.2f}",
        f"{network['flow_gradient']:.3f}",
        f"{statistics.median(relative):.2f}",
        f"{network['dead_by_threshold']['0.1']} of {network['filters']}",
        str(network["dead_by_threshold"]["0.01"]),
        str(network["silent_channels"]),
        f"{100 * network['sparsity']:.2f}",
    ]


def trained_table(chosen: Sequence[Cell], known: Records) -> str:
    """One row a cell: what training made of it, or that it is not run."""
    lines = header((*SETTING, *FOUND), 4)
    for cell in chosen:
        rest = found_in(known[cell]) if cell in known else [MISSING] + ["-"] * (len(FOUND) - 1)
        lines.append(f"| {' | '.join([*setting_of(cell), *rest])} |")
    return "\n".join(lines)


def seeds_table(known: Records) -> str:
    """The default and no penalty, mean and deviation over the seeds that were run."""
    lines = header(("", "seeds", "top-1 %", "sum of mean abs d", "dead (0.1)", "dead (0.01)", "silent"), 2)
    for label, cell in (("no penalty", NONE), ("the default", DEFAULT)):
        every = [replace(cell, seed=seed) for seed in sorted({each.seed for each in seeds()})]
        members = [known[each] for each in every if each in known]
        missing = [str(each.seed) for each in every if each not in known]
        which = ", ".join(str(each.seed) for each in every if each in known) or "-"
        which += f" ({', '.join(missing)} {MISSING})" if missing else ""
        networks = [record["network"] for record in members]
        columns: list[tuple[list[float], int]] = [
            ([record["top1"] for record in members], 2),
            ([network["flow_gradient"] for network in networks], 3),
            ([network["dead_by_threshold"]["0.1"] for network in networks], 1),
            ([network["dead_by_threshold"]["0.01"] for network in networks], 1),
            ([network["silent_channels"] for network in networks], 1),
        ]
        cells_of_row = [spread(numbers, digits) for numbers, digits in columns]
        lines.append(f"| {label} | {which} | {' | '.join(cells_of_row)} |")
    return "\n".join(lines)


def spread(numbers: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation (of the sample)."""
    if not numbers:
        return "-"
    mean = f"{statistics.mean(numbers):.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def removal_table(known: Records) -> str:
    """What really leaves the networks in which anything is dead, and how good they are then."""
    columns = ["cell", "threshold", "filters", "dead", "top-1 % before"]
    columns += [f"{label}: MACs, parameters, filters gone; top-1 %" for _, label in WAYS]
    lines, empty = header(columns, 2), []
    for cell in cells():
        if cell not in known:
            continue
        record = known[cell]
        for threshold in THRESHOLDS:
            dead = record["network"]["dead_by_threshold"][f"{threshold:g}"]
            if not dead:
                empty.append(f"{cell.name} at {threshold:g}")
                continue
            cuts = {cut["branches"]: cut for cut in record["removal"] if cut["threshold"] == threshold}
            parts = [cell.name, f"{threshold:g}", str(record["network"]["filters"]), str(dead), f"{record['top1']:.2f}"]
            lines.append(f"| {' | '.join(parts + [gone(cuts[way]) for way, _ in WAYS])} |")
    if empty:
        lines += ["", f"Nothing is dead, and nothing leaves: {', '.join(empty)}."]
    return "\n".join(lines)


def gone(cut: Mapping[str, Any]) -> str:
    """One real removal in a cell of the table."""
    shares = [100 * (1 - after / before) for before, after in (cut["macs"], cut["params"])]
    if not cut["filters_removed"] and not cut["branch_changes"]:
        return "nothing"
    return f"{shares[0]:.2f} %, {shares[1]:.2f} %, {cut['filters_removed']}; {cut['top1']:.2f}"


def section(known: Records, command: str) -> str:
    """All tables of one setting."""
    left = [cell for cell in cells() if cell not in known]
    state = f"{len(known)} of {len(cells())} cells are run."
    if left:
        state += f" `{command}` goes on with the others, the next one being `{left[0].name}`."
    parts = [
        state,
        "#### The grid",
        trained_table(grid(), known),
        "#### The grid's winner and the default at five shares",
        trained_table(shares(), known),
        "#### Three seeds",
        seeds_table(known),
        trained_table(seeds(), known),
        "#### Reductions at 20 %, weight decay",
        trained_table(beside(), known),
        "#### What really leaves",
        removal_table(known),
    ]
    return "\n\n".join(parts)


def page(short: Records, full: Records) -> str:
    """What stands between the marks."""
    command = "python benchmarks/ablation/run.py"
    parts = ["### Ten epochs, 10,000 images", section(short, command), "### Full length: 200 epochs, all images"]
    parts.append(
        section(full, f"{command} --full") if full else f"Not run: it wants a GPU. `{command} --full` does it."
    )
    return "\n\n".join(parts) + "\n"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    short = records_in(root / "results" / "ablation", SHORT)
    full = records_in(root / "results" / "ablation-full", FULL)
    return written(root / "docs" / "ablation.md", BEGIN, END, page(short, full))
