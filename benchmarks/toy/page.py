"""Write the table of the toy experiment in docs/comparison.md anew from results/toy/toy.json.

    python benchmarks/pages.py toy [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from written_pages import written

from flowprune.studies.toy import ToyResult

BEGIN, END = "<!-- toy:begin -->", "<!-- toy:end -->"


def result_of(content: dict[str, Any]) -> ToyResult:
    """What the file says, without the picture's regions."""
    known = {field.name: content[field.name] for field in fields(ToyResult)}
    after = {
        data: {
            criterion: {int(count): found for count, found in by_count.items()} for criterion, by_count in each.items()
        }
        for data, each in known["after"].items()
    }
    return ToyResult(**{**known, "after": after, "regions": {}})


def section(content: dict[str, Any]) -> str:
    """The Markdown."""
    result = result_of(content)
    lines = [
        f"`python benchmarks/toy/run.py`, `results/toy/toy.json`: {result.seeds} draws; {result.removed} of "
        f"{result.units} units left.",
        "",
        "| " + " | ".join(result.headers()) + " |",
        "| --- | --- |" + " ---: |" * (len(result.headers()) - 2),
        *("| " + " | ".join(row) + " |" for row in result.rows()),
        "",
        *(f"Left out: `{name}`: {reason}." for name, reason in result.left_out.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    file = root / "results" / "toy" / "toy.json"
    text = (
        section(json.loads(file.read_text(encoding="utf-8")))
        if file.exists()
        else "Not run yet: `python benchmarks/toy/run.py`.\n"
    )
    return written(root / "docs" / "comparison.md", BEGIN, END, text)
