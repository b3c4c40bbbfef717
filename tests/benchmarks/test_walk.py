"""The way of one call through the package stays shorter than before every file was moved to its wing (docs/architecture.md)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_fewer_files_are_entered_and_come_back_to_than_before_the_move() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (before|now) \| (\d+ \| \d+ \| \d+) \|$", document, flags=re.MULTILINE))
    before = [int(number) for number in rows["before"].split("|")]
    asked = [sys.executable, str(ROOT / "benchmarks" / "walk" / "run.py"), "--source", str(ROOT / "src"), "--json"]
    found = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert found["files"] < before[0] and found["returns"] < before[2]
    told = set(re.findall(r"`(\w+)`", document[document.index("| now in |") : document.index("**Lines.**")]))
    assert {Path(file).stem for pair in found["walk"] for file in pair} == told
