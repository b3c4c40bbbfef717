"""How results are printed: as a table as wide as the terminal, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(width: int) -> Console:
    """The terminal; where there is none, so many columns: a pipe has no width, and what reads it should get whole lines."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def print_json(content: Any) -> None:
    """Print one line of JSON; paths are written as text."""
    typer.echo(json.dumps(content, default=str))
