"""Write the tables of docs/importance.md anew from ``results/nuclear-norm/nuclear-norm.json``.

    python benchmarks/pages.py nuclear_norm [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import written

BEGIN, END = "<!-- nuclear-norm:begin -->", "<!-- nuclear-norm:end -->"


def section(result: dict[str, Any]) -> str:
    """The Markdown between the marks."""
    where = result["environment"]
    gpus = "".join(f", {gpu}" for gpu in where["gpus"]) if result["device"] != "cpu" else ""
    lines = [
        f"`python benchmarks/nuclear_norm/run.py` on {where['cpu']} ({where['cores']} cores, {where['threads']} threads{gpus}), "
        f"torch {where['packages']['torch']}, {result['images']} images of 32x32; "
        "seconds, and times the forward pass:",
        "",
        "| way | " + " | ".join(f"{name}, s | x forward" for name in result["networks"]) + " |",
        "| --- | " + " | ".join("---: | ---:" for _ in result["networks"]) + " |",
    ]
    for way in next(iter(result["networks"].values()))["seconds"]:
        cells = []
        for found in result["networks"].values():
            taken = found["seconds"][way]
            cells.append(f"{taken:.2f} | {taken / found['seconds']['forward']:.1f}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    for name, found in result["networks"].items():
        clocks = [found["seconds"], found["processor seconds"]]
        loop, forward = (
            [clock[way] / clock["stacked"] for clock in clocks] for way in ("loop of matrix_rank", "forward")
        )
        lines += [
            "",
            f"{name}: the default is {loop[0]:.1f} times faster than HRank's loop and takes {1 / forward[0]:.1f} forward "
            f"passes; by the processor's own clock, which other programs hardly move, {loop[1]:.1f} and {1 / forward[1]:.1f}.",
        ]
    if "memory" in result:
        added = ", ".join(f"{gib:.2f} GiB for {images} images" for images, gib in result["memory"].items())
        lines += ["", f"Peak memory that scoring adds, resnet56 (cap: `memory=2` GiB, and one batch): {added}."]
    if "errors" in result:
        columns = list(next(iter(result["errors"].values())))
        lines += [
            "",
            "Against `stacked` in float64, pretrained ResNet-56, training images of CIFAR-10, all channels in one ranking:",
            "",
            "| way | " + " | ".join(columns) + " |",
            "| --- | " + " | ".join("---:" for _ in columns) + " |",
        ]
        for way, found in result["errors"].items():
            cells = [f"{found['largest relative error']:.1e}", f"{found['Spearman']:.6f}"]
            cells.append(f"{100 * found['same among the lowest 40 %']:.1f} %")
            lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    result = json.loads((root / "results" / "nuclear-norm" / "nuclear-norm.json").read_text(encoding="utf-8"))
    return written(root / "docs" / "importance.md", BEGIN, END, section(result))
