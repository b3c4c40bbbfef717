"""What pages of studies of cells read."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.cells import Cell, Known, Setting, Workshop
from evidence.command_line import ROOT


def results_of(setting: Setting) -> Known:
    """The committed results of a study by the name of their cell."""
    return Workshop(setting, ROOT / setting.results, ROOT / "runs" / setting.results.name, None).known()


def open_line(setting: Setting, cells: Sequence[Cell], known: Known) -> str:
    """How many cells are open, in a sentence, and how to see which."""
    left = sum(cell.name not in known for cell in cells)
    command = f"`python benchmarks/{setting.study}/run.py --list`"
    return f"{len(cells) - left} of {len(cells)} cells are run; {command} names those that are open, in order."
