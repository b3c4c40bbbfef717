"""Put commands and what they printed into the pages, from results/transcripts/.

    python benchmarks/pages.py transcripts [--check]

A page says which by ``<!-- transcript NAME FIRST LAST -->`` and ``<!-- transcript end -->``; the commands are counted from 1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from written_pages import all_written

ROOT = Path(__file__).resolve().parents[2]
MARKS = re.compile(r"(<!-- transcript ([\w-]+) (\d+) (\d+) -->\n).*?(<!-- transcript end -->)", re.DOTALL)


def shown(found: re.Match[str]) -> str:
    """The commands between two marks, each with what it printed."""
    name, first, last = found[2], int(found[3]), int(found[4])
    content = json.loads((ROOT / "results/transcripts" / f"{name}.json").read_text(encoding="utf-8"))
    lines = [f"$ {one['command']}\n{one['printed']}" for one in content[first - 1 : last]]
    return "\n".join([f"{found[1]}```text", *lines, f"```\n{found[5]}"])


def main() -> int:
    pages = sorted((ROOT / "docs").glob("*.md"))
    written = {page: page.read_text(encoding="utf-8") for page in pages}
    return all_written({page: MARKS.sub(shown, text) for page, text in written.items()})
