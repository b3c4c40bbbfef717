"""Write the table of the forms' overhead in docs/flow.md anew from results/flow-overhead/forms.json.

    python benchmarks/pages.py flow_overhead [--check]

As long as it was not measured the page says so. ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from written_pages import header, written

BEGIN, END = "<!-- forms:begin -->", "<!-- forms:end -->"


def table(record: Mapping[str, Any]) -> str:
    """A row a form, a column a network: the median over the rounds."""
    networks = record["networks"]
    names = [f"{one['network']} ({one['batch']} x {one['side']}²)" for one in networks]
    lines = header(("form", *names), 1)
    for form in networks[0]["ratios"]:
        lines.append(
            f"| {form} | " + " | ".join(f"{statistics.median(one['ratios'][form]):.3f}" for one in networks) + " |"
        )
    rounds = len(next(iter(networks[0]["ratios"].values())))
    cpu, threads = record["environment"]["cpu"], record["environment"]["threads"]
    said = f"Median of {rounds} rounds on {cpu}, {threads} thread{'s' * (threads > 1)}; `results/flow-overhead/forms.json`."
    return "\n".join([*lines, "", said])


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    file = root / "results" / "flow-overhead" / "forms.json"
    content = table(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else "Not measured yet."
    return written(root / "docs" / "flow.md", BEGIN, END, f"{content}\n")
