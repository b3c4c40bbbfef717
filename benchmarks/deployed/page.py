"""Write docs/deployed.md from results/deployed/deployed.json, which benchmarks/deployed/run.py leaves.

python benchmarks/pages.py deployed [--check]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import all_written, header

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "results/deployed/deployed.json", ROOT / "docs/deployed.md"

HEAD = """# Whether models arrive

{right} of {asked} models come through: half of their MACs by L2 with `round_to="auto"` for ONNX Runtime, saved, loaded in another
process, exported with an open batch, and within {limit:g} of the largest logit in ONNX Runtime, on images that nothing was made
with. The models are torchvision's 22 classifiers of [the zoo](zoo.md) and 40 of its timm models, drawn by lot, with random weights
(what is asked is whether a model is carried over, not how well it classifies). `python benchmarks/deployed/run.py` asks them,
`python benchmarks/pages.py deployed` writes this page.
"""
COLUMNS = ("model", "MACs kept", "parameters kept", "loaded apart by", "ONNX Runtime apart by")


def line(row: dict[str, Any]) -> str:
    """A model that came through both processes."""
    macs, params = (f"{row[kind][1] / row[kind][0]:.1%}" for kind in ("macs", "params"))
    return f"| {row['model']} | {macs} | {params} | {row['loaded']:.1e} | {row['exported']:.1e} |"


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    rows = content["rows"]
    failed = [row for row in rows if row["failed"]]
    head = HEAD.format(right=len(rows) - len(failed), asked=len(rows), limit=content["limit"])
    if len(rows) < content["models"]:
        head += f"\n{content['models'] - len(rows)} more are not asked yet.\n"
    lines = [head]
    if failed:
        lines += ["## What did not, and why\n", *(f"- {row['model']}: {row['failed']}" for row in failed), ""]
    lines += ["## What did\n", *header(COLUMNS, 1), *(line(row) for row in rows if not row["failed"])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is out of date."""
    return all_written({PAGE: page(json.loads(RESULTS.read_text(encoding="utf-8")))}) if RESULTS.exists() else 0
