"""Where tables are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(width: int) -> Console:
    """The terminal; where there is none, so many columns: a pipe has no width, and what reads it should get whole lines."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)
