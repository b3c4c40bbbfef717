"""Write the table of docs/reproduce.md from the studies in this folder: which command measures what, and where it goes.

python benchmarks/pages.py reproduce [--check]
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from written_pages import header, written

ROOT = Path(__file__).resolve().parents[2]
PAGE, STUDIES = ROOT / "docs/reproduce.md", ROOT / "benchmarks"
BEGIN, END = "<!-- reproduce:begin -->", "<!-- reproduce:end -->"


def said(script: Path) -> str:
    """What the docstring of a script says."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""


def row_of(study: Path) -> str:
    """A study's row: the question, the command, the pages its numbers stand in."""
    run, page = said(study / "run.py"), said(study / "page.py") if (study / "page.py").is_file() else ""
    command = next(line.strip() for line in run.splitlines() if line.strip().startswith("python benchmarks/"))
    command = re.split(r"  +#|  ?\[", command)[0].strip()
    question = " ".join(run.partition("\n\n")[0].split()).rstrip(".").replace("|", "\\|")
    pages = sorted(set(re.findall(r"docs/([\w-]+\.md)", page + run)))
    there = [name for name in pages if (ROOT / "docs" / name).is_file()]
    links = ", ".join(f"[{name.removesuffix('.md')}]({name})" for name in there) or "-"
    return f"| {question} | `{command}` | {links} |"


def main() -> int:
    lines = header(("what it finds out", "command", "page"), 3)
    lines += [row_of(script.parent) for script in sorted(STUDIES.glob("*/run.py"))]
    return written(PAGE, BEGIN, END, "\n".join([*lines, ""]))
