"""Write the tables of docs/one-shot.md and its plots anew from results/one-shot/*.json.

    python benchmarks/pages.py one_shot [--check]

``--check`` changes nothing and fails if the page or a plot is out of date.
"""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from one_shot.recovery_tables import recovery_table
from written_pages import all_written, filled

NETWORKS = ("resnet20", "resnet56")
NOTHING_YET = "Nothing is measured yet; `python benchmarks/one_shot/recoveries.py {} --list` names the cells."
COLORS = (
    *("#0f9d8a", "#c2571a", "#7b5cd6", "#b8860b", "#c23b6b", "#3f7fd0", "#5f8f2f", "#a0522d"),
    *("#d0703f", "#2f8fa5", "#8a8a00", "#555f70", "#9b2fae", "#1f6f4a", "#e0559a", "#7a869a", "#3d3d9e"),
)


def spread(numbers: Sequence[float], digits: int = 2) -> str:
    mean = f"{statistics.mean(numbers):.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def by_budget(entry: dict[str, Any]) -> list[list[float]]:
    """[budgets][draws]: top-1."""
    return [
        list(column)
        for column in zip(*([p["top1"] for p in d["points"]] for d in entry["draws"].values()), strict=True)
    ]


def accuracy_table(results: dict[str, Any]) -> str:
    """One row a criterion, the best on average over the budgets first."""
    entries = results["criteria"]
    asked = [point["asked"] for point in next(iter(next(iter(entries.values()))["draws"].values()))["points"]]
    ranked = sorted(entries, key=lambda label: -statistics.mean(statistics.mean(c) for c in by_budget(entries[label])))
    lines = [
        "| criterion | draws | " + " | ".join(f"{100 * (1 - kept):.0f} % fewer" for kept in asked) + " |",
        "| --- | ---: |" + " ---: |" * len(asked),
    ]
    for label in ranked:
        cells = [spread(column) for column in by_budget(entries[label])]
        lines.append(f"| {label} | {len(entries[label]['draws'])} | {' | '.join(cells)} |")
    macs = [point["macs"] for e in entries.values() for d in e["draws"].values() for point in d["points"]]
    targets = [
        int(p["asked"] * results["dense"]["macs"])
        for e in entries.values()
        for d in e["draws"].values()
        for p in d["points"]
    ]
    closest = [1 - reached / target for reached, target in zip(macs, targets, strict=True)]
    lines.append("")
    tested = "" if results["precision"] == "float32" else f", tested in {results['precision']}"
    lines.append(
        f"Dense: {results['dense']['top1']:.2f} % at {results['dense']['macs']:,} MACs{tested}. Every cut is below its "
        f"target, by at most {100 * max(closest):.2f} % of it. `{results['command']}`, "
        f"`results/one-shot/{results['network']}.json`."
    )
    return "\n".join(lines)


def stability_table(results: dict[str, Any], which: str) -> str:
    """One row a condition, one column a criterion."""
    entries = {label: entry for label, entry in results["criteria"].items() if entry["conditions"]}
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry["conditions"]))
    lines = ["| images | " + " | ".join(entries) + " |", "| --- |" + " ---: |" * len(entries)]
    for name in names:
        cells = []
        for entry in entries.values():
            found = entry["conditions"].get(name)
            cells.append(spread([value[which] for value in found.values()], 3) if found else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: dict[str, Any]) -> str:
    """Top-1 against MACs as SVG: one line a criterion."""
    width, height, left, top, right, bottom = 860, 460, 56, 16, 230, 48
    entries, dense = results["criteria"], results["dense"]
    low, high = 0.48 * dense["macs"] / 1e6, 1.01 * dense["macs"] / 1e6

    def place(macs: float, top1: float) -> tuple[float, float]:
        across = left + (macs / 1e6 - low) / (high - low) * (width - left - right)
        return across, top + (100 - top1) / 100 * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for tick in range(0, 101, 20):
        _, y = place(low * 1e6, tick)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#e3e5e9"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#626b7a">{tick}</text>')
    for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x, y = place(share * dense["macs"], 0)
        label = f"{share * dense['macs'] / 1e6:.1f}M"
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle" fill="#626b7a">{label}</text>')
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle" fill="#1d2330">'
        "multiply-accumulates per image; top-1 in per cent, without fine-tuning</text>"
    )
    for number, (name, entry) in enumerate(sorted(entries.items())):
        color = COLORS[number % len(COLORS)]
        draws = list(entry["draws"].values())
        curve = [place(dense["macs"], dense["top1"])]
        for position in range(len(draws[0]["points"])):
            members = [draw["points"][position] for draw in draws]
            curve.append(
                place(statistics.mean(m["macs"] for m in members), statistics.mean(m["top1"] for m in members))
            )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve)
        dash = ' stroke-dasharray="5 3"' if number % 2 else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')
        y = top + 14 + 17 * number
        x = width - right + 14
        parts.append(
            f'<line x1="{x}" y1="{y - 4}" x2="{x + 24}" y2="{y - 4}" stroke="{color}" stroke-width="2.5"{dash}/>'
        )
        parts.append(f'<text x="{x + 30}" y="{y}" fill="#1d2330">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def put(page: str, mark: str, content: str) -> str:
    """The page with ``content`` between the two comments of this mark."""
    return filled(page, f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->", f"{content}\n")


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    folder, page_file = root / "results" / "one-shot", root / "docs" / "one-shot.md"
    files = {page_file: page_file.read_text(encoding="utf-8")}
    for network in NETWORKS:
        if (folder / f"{network}.json").exists():
            results = json.loads((folder / f"{network}.json").read_text(encoding="utf-8"))
            files[page_file] = put(files[page_file], network, accuracy_table(results))
            files[root / "docs" / f"one-shot-{network}.svg"] = plot(results)
        if (folder / f"stability-{network}.json").exists():
            results = json.loads((folder / f"stability-{network}.json").read_text(encoding="utf-8"))
            within, everywhere = (stability_table(results, which) for which in ("within_groups", "all_channels"))
            content = (
                f"Within each coupled group, averaged over the groups (`{results['command']}`):\n\n{within}\n\n"
                f"Over all channels of the network at once:\n\n{everywhere}"
            )
            files[page_file] = put(files[page_file], f"stability-{network}", content)
        recovered = recovery_table(folder / "recoveries" / network)
        files[page_file] = put(files[page_file], f"recoveries-{network}", recovered or NOTHING_YET.format(network))
    return all_written(files)
