"""Pages whose tables are made from results: what stands between two marks is written anew, or compared with what it would be."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
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
    return all_written({page: filled(page.read_text(encoding="utf-8"), begin, end, content)})


def all_written(files: Mapping[Path, str], gone: Iterable[Path] = ()) -> int:
    """Write whole files and take away those that are ``gone``; with ``--check`` only say (1) whether one is another, or there."""
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    leftover = [path for path in gone if path.is_file()]
    if "--check" in sys.argv[1:]:
        for path in stale + leftover:
            print(f"{path} is out of date: run python {sys.argv[0]}", file=sys.stderr)
        return int(bool(stale or leftover))
    for path in leftover:
        path.unlink()
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return 0


def header(columns: Sequence[str], texts: int) -> list[str]:
    """The first two lines of a table whose first ``texts`` columns are words."""
    rules = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(rules)} |"]
