"""Write the tables of docs/zoo.md anew from results/zoo/*.json, so that no figure in it is typed by hand.

    python benchmarks/pages.py zoo [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import written

from zoo.others_page import section
from zoo.tables import Survey, page

BEGIN, END = "<!-- zoo:begin -->", "<!-- zoo:end -->"
TOOLS = ("flowprune", "torch-pruning", "torch-kirigami")


def read(path: Path) -> Survey:
    """A tool's results on one list; an empty survey where there is no file yet."""
    if not path.exists():
        return Survey(path.stem, "", {}, {})
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    models = {record["model"]: record for record in content["models"]}
    return Survey(content["tool"], content["version"], content["environment"], models)


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    folder = root / "results" / "zoo"
    twins = folder / "twins-others.json"
    compared = json.loads(twins.read_text(encoding="utf-8"))["models"] if twins.exists() else []
    verdicts = {f"{entry['name']} {entry['size']}": entry for entry in compared}
    others = section(read(folder / "flowprune-others.json"), read(folder / "torch-pruning-others.json"), verdicts)
    middle = page(*(read(folder / f"{tool}.json") for tool in TOOLS), read(folder / "flowprune-beyond.json"), others)
    return written(root / "docs" / "zoo.md", BEGIN, END, f"{middle}\n")
