"""Write the tables of docs/mutants.md anew from results/mutants/mutants.json.

    python benchmarks/pages.py mutants [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from written_pages import written

BEGIN, END = "<!-- mutants:begin -->", "<!-- mutants:end -->"
CAUGHT = ("certificate", "twin", "forward raises", "engine raises")
HARMLESS = ("same model", "right model")


def tables(mutants: list[dict[str, Any]]) -> str:
    """The Markdown between the marks: one row a kind, one row a network, and what the refused cuts would have been."""
    faults = [mutant for mutant in mutants if mutant["caught"] not in HARMLESS]
    survived = sum(mutant["caught"] == "survived" for mutant in mutants)
    touched = sum(not mutant["untouched"] for mutant in mutants)
    refused = Counter(mutant["uncertified"] for mutant in mutants if mutant["caught"] == "certificate")
    networks = len({mutant["network"] for mutant in mutants})
    return "\n".join(
        [
            f"{len(faults)} mutants on {networks} networks are wrong; {len(faults) - survived} of them were noticed, {survived} "
            f"survived. {len(mutants) - len(faults)} more turned out harmless. The dense model was changed by {touched} of all "
            f"{len(mutants)}.",
            "",
            f"Of the {sum(refused.values())} cuts that the certificate refused, {refused['differs']} would have run and returned "
            f"something else than their twin, {refused['raises']} would have raised, and {refused['equals']} would have been right "
            "in evaluation mode.",
            "",
            *_table("kind", "kind", mutants),
            "",
            *_table("network", "network", mutants),
        ]
    )


def _table(title: str, key: str, mutants: list[dict[str, Any]]) -> list[str]:
    columns = (*CAUGHT, *HARMLESS, "survived")
    lines = [f"| {title} | mutants | {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) + 1)]
    counts: dict[str, Counter[str]] = {}
    for mutant in mutants:
        counts.setdefault(mutant[key], Counter())[mutant["caught"]] += 1
    names = sorted(counts) if key == "kind" else list(counts)
    rows = [(name, counts[name]) for name in names]
    rows.append(("in all", sum((count for _, count in rows), Counter())))
    for name, count in rows:
        cells = " | ".join(str(count[column] or "") for column in columns)
        lines.append(f"| {name} | {sum(count.values())} | {cells} |")
    return lines


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    mutants = json.loads((root / "results" / "mutants" / "mutants.json").read_text(encoding="utf-8"))["mutants"]
    return written(root / "docs" / "mutants.md", BEGIN, END, f"{tables(mutants)}\n")
