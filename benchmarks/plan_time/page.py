"""Write the table of docs/rightness.md on the time of a plan anew from results/plan-time/plan-time.json.

    python benchmarks/pages.py plan_time [--check]

``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path

from written_pages import written

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- plan-time:begin -->", "<!-- plan-time:end -->"


def main() -> int:
    path = ROOT / "results" / "plan-time" / "plan-time.json"
    if not path.exists():
        return written(ROOT / "docs" / "rightness.md", BEGIN, END, "Not measured on this version yet.\n")
    content = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| model | filters | before, s | now, s | ratio |", "| --- | --- | ---: | ---: | ---: |"]
    for row in content["rows"]:
        name = row["model"].partition(":")[2]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] >= 0.01 else "below 0.01"
        lines.append(f"| {name} | {row['filters']} | {row['before']:.2f} | {row['after']:.2f} | {ratio} |")
    revisions = content["revisions"]
    lines += [
        "",
        f"Before is revision {revisions['before'][:7]}, now {revisions['after'][:7]}; {content['unit']}, medians of "
        f"{content['pairs']} turns each and of their ratios; one turn where a plan takes longer than ten seconds.",
    ]
    return written(ROOT / "docs" / "rightness.md", BEGIN, END, "\n".join(lines) + "\n")
