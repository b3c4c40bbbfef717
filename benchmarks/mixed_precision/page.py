"""Write the tables of docs/mixed-precision.md anew from ``results/mixed-precision/seed*.json``.

    python benchmarks/pages.py mixed_precision [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import written

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- mixed-precision:begin -->", "<!-- mixed-precision:end -->"


def section(result: dict[str, Any]) -> str:
    """The Markdown of one seed."""
    where, beside, bytes_ = result["environment"], result["ONNX Runtime"], result["bytes"]
    reported = result["size in bits that the search reported"] / 8
    widths = ", ".join(f"{count} of {bits} bits" for bits, count in result["filters by bits"].items())
    lines = [
        f"Seed {result['seed']}, `python benchmarks/mixed_precision/run.py --seed {result['seed']}`, {where['cpu']}, torch "
        f"{where['packages']['torch']}; filters that stay: {widths}.",
        "",
        "| stage | top-1 % | filters | MACs |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {row['stage']} | {row['top1']:.2f} | {row['filters']} | {row['macs']:,} |" for row in result["rows"]),
        "",
        f"The search reported {reported:,.3f} bytes of weights; the artifact holds:",
        "",
        "| bytes for | |",
        "| --- | ---: |",
        *(f"| {part} | {count:,.3f} |" for part, count in bytes_.items()),
        "",
        f"ONNX Runtime beside the network on grids, {beside['images']} test images:",
        "",
        "| | |",
        "| --- | ---: |",
        f"| images all of whose logits are within one quantum | {100 * beside['within one quantum']:.2f} % |",
        f"| largest difference, in quanta of its logit | {beside['largest difference in quanta']:.2f} |",
        f"| largest difference (largest logit {beside['largest logit']:.2f}) | {beside['largest difference']:.2e} |",
        f"| equal decisions | {100 * beside['equal decisions']:.2f} % |",
        f"| top-1 here, and of ONNX Runtime | {100 * beside['top-1 here']:.2f} %, {100 * beside['top-1 of ONNX Runtime']:.2f} % |",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or say whether it is out of date."""
    files = sorted((ROOT / "results/mixed-precision").glob("seed*.json"))
    sections = [section(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return written(ROOT / "docs/mixed-precision.md", BEGIN, END, "\n".join(sections))
