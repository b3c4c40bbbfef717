"""Write docs/speed.md from results/speed/speed.json, which benchmarks/speed/run.py leaves; without results there is no page.

python benchmarks/pages.py speed [--check]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from written_pages import all_written

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "results/speed/speed.json", ROOT / "docs/speed.md"
CUTS = ("round_to=1", "round_to=8", "round_to=auto")

HEAD = """# How much faster half of the MACs is

Every network cut by L2 to {share:.0%} of its multiply-accumulates, its widths any (`round_to=1`), multiples of 8, or what the
machine likes (`round_to="auto"`), and timed in turns with the dense one: the small model's time as a share of the dense one's, the
middle of {turns} turns. Written by `python benchmarks/pages.py speed` from `results/speed/speed.json`, which
`python benchmarks/speed/run.py` leaves.

Processor: {cpu}.
"""


def table(networks: dict[str, Any], backend: str, batch: int, threads: int) -> list[str]:
    """A line for every network that ran under these conditions."""
    lines = [
        f"\n## {backend}, batches of {batch}, {threads} thread{'s' * (threads > 1)}\n",
        "| network | dense, ms | " + " | ".join(f"`{cut}`" for cut in CUTS) + " |",
        "| --- | ---: | " + " | ".join("---:" for _ in CUTS) + " |",
    ]
    for name, study in networks.items():
        here = {
            row["name"]: row
            for row in study["rows"]
            if (row["backend"], row["batch"], row["threads"]) == (backend, batch, threads)
        }
        if "dense" in here:
            shares = [f"{1 / here[cut]['speed_up']:.2f}" if cut in here else "-" for cut in CUTS]
            lines.append(f"| {name} | {here['dense']['milliseconds']:.3g} | " + " | ".join(shares) + " |")
    return lines


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    networks = content["networks"]
    conditions = dict.fromkeys(
        (row["backend"], row["batch"], row["threads"]) for study in networks.values() for row in study["rows"]
    )
    cpu = content["environment"].get("cpu", "unknown")
    lines = [HEAD.format(share=content["share"], turns=content["turns"], cpu=cpu)]
    for condition in conditions:
        lines += table(networks, *condition)
    missing = [f"- {name}, {what}: {why}" for name, study in networks.items() for what, why in study["missing"].items()]
    if missing:
        lines += ["\n## What is missing, and why\n", *missing]
    return "\n".join(lines) + "\n"


def main() -> int:
    if not RESULTS.exists():
        return 0  # the study has not been run
    return all_written({PAGE: page(json.loads(RESULTS.read_text(encoding="utf-8")))})
