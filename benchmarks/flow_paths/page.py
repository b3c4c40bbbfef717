"""Write the table of paths in docs/flow.md anew from ``results/flow-paths/flow-paths.json``.

    python benchmarks/pages.py flow_paths [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import written

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- flow-paths:begin -->", "<!-- flow-paths:end -->"
COLUMNS = (
    ("sum \\|d\\|", "gradient"),
    ("sum \\|d\\|/\\|Y\\|", "relative_gradient"),
    ("sum \\|c\\|/\\|Y\\|", "relative_curvature"),
    ("angle", "angle"),
    ("straightness", "straightness"),
)


def section(result: dict[str, Any]) -> str:
    """The Markdown between the marks: a row a network and seed."""
    stages = len(result["pairs"][0]["plain"]["stages"])
    headers = ["networks", "seed", "method", *(title for title, _ in COLUMNS)]
    headers += [f"length, stage {number}" for number in range(1, stages + 1)] + ["dead", "silent"]
    rules = ["---", "---:", "---"] + ["---:"] * (len(headers) - 3)
    lines = [headers, rules]
    for pair in result["pairs"]:
        for method in ("plain", "ffr"):
            model = pair[method]
            lines.append(
                [
                    pair["networks"],
                    str(pair["training_seed"]),
                    method,
                    *(f"{model['totals'][key]:.3f}" for _, key in COLUMNS),
                    *(f"{stage['length'] / stage['scale']:.2f}" for stage in model["stages"]),
                    f"{model['dead_filters']} of {model['filters']}",
                    f"{model['totals']['silent']:.0f}",
                ]
            )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> int:
    result = json.loads((ROOT / "results" / "flow-paths" / "flow-paths.json").read_text(encoding="utf-8"))
    return written(ROOT / "docs" / "flow.md", BEGIN, END, section(result))
