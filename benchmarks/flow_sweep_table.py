"""Write the table of docs/flow-sweep.md anew from results/flow-sweep/*.json.

    python benchmarks/flow_sweep_table.py [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from written_pages import written

BEGIN, END = "<!-- sweep:begin -->", "<!-- sweep:end -->"
HEADER = (
    "| strength (each term) | reduction | weight decay | top-1 % | sum of mean abs d | median abs d / abs Y "
    "| dead (t = 0.1) | dead (t = 0.01) | silent channels | sparsity % | removed by threshold=0.01 | top-1 after | file |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)


def row(path: Path, record: dict[str, Any]) -> tuple[Any, ...]:
    flow = record["flow"] or {}
    share = flow.get("gradient", "none")
    reduction = flow.get("reduction", "-")
    decay = record["training"]["weight_decay"]
    relative = [value for value in record["flow_relative"] if value is not None]
    cut = record["threshold_cut"]
    cells = [
        share,
        reduction,
        f"{decay:g}",
        f"{record['top1']:.2f}",
        f"{record['flow_gradient']:.3f}",
        f"{statistics.median(relative):.2f}",
        f"{record['dead_filters']['0.1']} of {record['filters']}",
        str(record["dead_filters"]["0.01"]),
        str(record["silent_channels"]),
        f"{100 * record['sparsity']['effective']:.2f}",
        str(cut["filters_removed"]),
        f"{cut['top1']:.2f}",
        f"`{path.name}`",
    ]
    strength = 0.0 if share == "none" else float(share.rstrip("%"))
    return decay, reduction, strength, "| " + " | ".join(cells) + " |"


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    files = sorted((root / "results" / "flow-sweep").glob("*.json"))
    rows = sorted(row(path, json.loads(path.read_text(encoding="utf-8"))) for path in files)
    table = "\n".join([HEADER, *(line for *_, line in rows)])
    return written(root / "docs" / "flow-sweep.md", BEGIN, END, f"{table}\n")


if __name__ == "__main__":
    sys.exit(main())
