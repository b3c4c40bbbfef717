"""Write the table of the recipes' first epochs in docs/comparison.md anew from results/first-epochs/*.json.

    python benchmarks/pages.py first_epochs [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import written

BEGIN, END = "<!-- first-epochs:begin -->", "<!-- first-epochs:end -->"


def section(results: dict[str, Any]) -> str:
    """The Markdown of one recipe."""
    lines = [
        f"`{results['command']}`: `{results['runs']}`, interrupted after that.",
        "",
        "| training | epoch | training loss | training % | test % | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stage, epochs in results["epochs"].items():
        for epoch in epochs:
            tested = "-" if epoch["test_accuracy"] is None else f"{epoch['test_accuracy']:.2f}"
            lines.append(
                f"| {stage} | {epoch['epoch']} | {epoch['task_loss']:.3f} | {epoch['train_accuracy']:.2f} | {tested} "
                f"| {epoch['seconds']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    files = sorted((root / "results" / "first-epochs").glob("*.json"))
    parts = [section(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return written(root / "docs" / "comparison.md", BEGIN, END, "\n".join(parts) or "Not run yet.\n")
