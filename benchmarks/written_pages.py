"""Pages whose tables are made from results: what stands between two marks is written anew, or compared with what it would be."""

from __future__ import annotations

import sys
from pathlib import Path


def filled(text: str, begin: str, end: str, content: str) -> str:
    """``text`` with ``content`` between the marks ``begin`` and ``end``; the program ends where a mark is missing."""
    head, mark, rest = text.partition(begin)
    _, closing, tail = rest.partition(end)
    if not mark or not closing:
        sys.exit(f"the page has no {begin} ... {end}")
    return f"{head}{begin}\n{content}{end}{tail}"


def written(page: Path, begin: str, end: str, content: str) -> int:
    """Write ``content`` between the marks of ``page``; with ``--check`` on the command line only say (1) whether it is another."""
    before = page.read_text(encoding="utf-8")
    after = filled(before, begin, end, content)
    if "--check" in sys.argv[1:]:
        if after == before:
            return 0
        print(f"{page} is out of date: run python {sys.argv[0]}", file=sys.stderr)
        return 1
    page.write_text(after, encoding="utf-8")
    return 0
