"""Write the tables of docs/branches.md anew from ``results/branch-speed/branch-speed.json``.

    python benchmarks/pages.py branch_speed [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import written

BEGIN, END = "<!-- branch-speed:begin -->", "<!-- branch-speed:end -->"
RUNTIMES = ("PyTorch", "ONNX Runtime")


def section(result: dict[str, Any]) -> str:
    """The Markdown between the marks."""
    where = result["environment"]
    lines = [
        f"`python benchmarks/branch_speed/run.py` on {where['cpu']}, one thread, torch {where['packages']['torch']}; "
        "processor time, medians.",
        "",
        "| ends | convolution | live | opened | " + " | ".join(f"{r}, batch 1 | {r}, larger" for r in RUNTIMES) + " |",
        "| ---: | --- | ---: | --- | " + " | ".join("---: | ---:" for _ in RUNTIMES) + " |",
    ]
    right = wrong = 0
    for rows in _pairs(result["ends"]):
        first = rows[0]
        shares = [row[runtime]["live"] / row[runtime]["dense"] for runtime in RUNTIMES for row in rows]
        right += sum((share < 1) == first["worth"] for share in shares)
        wrong += sum((share < 1) != first["worth"] for share in shares)
        kind = f"{first['kernel']}x{first['kernel']} from {first['inner']}, {first['size']}x{first['size']}"
        decided = "yes" if first["worth"] else "no"
        lines.append(
            f"| {first['channels']} | {kind} | {first['live']} | {decided} | {' | '.join(f'{s:.2f}' for s in shares)} |"
        )
    lines += [
        "",
        "The larger batch is 64 for the stages of ResNet-20 (the first three), else 8. "
        f"The rule is right in {right} of {right + wrong} cells.",
        "",
        "Whole networks on 32x32 images, dead ends planted, with random weights. `coupled groups` is pruned without branches to as "
        'many MACs as `branches="always"` leaves. Time as a share of the dense network\'s:',
        "",
    ]
    ways = list(result["networks"][0]["macs"])[1:]
    clocks = list(result["networks"][0]["seconds"])
    lines += [
        "| network | dead | way | MACs | parameters | " + " | ".join(clocks) + " |",
        "| --- | --- | --- | ---: | ---: | " + " | ".join("---:" for _ in clocks) + " |",
    ]
    for found in result["networks"]:
        for way in ways:
            counts = [found[kind][way] / found[kind]["dense"] for kind in ("macs", "params")]
            times = [found["seconds"][clock][way] / found["seconds"][clock]["dense"] for clock in clocks]
            cells = [f"{share:.1%}" for share in counts] + [f"{share:.2f}" for share in times]
            lines.append(f"| {found['network']} | {found['dead']} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _pairs(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of one shape and width together, the smaller batch first."""
    found: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("channels", "inner", "size", "kernel", "live"))
        found.setdefault(key, []).append(row)
    return list(found.values())


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    result = json.loads((root / "results" / "branch-speed" / "branch-speed.json").read_text(encoding="utf-8"))
    return written(root / "docs" / "branches.md", BEGIN, END, section(result))
