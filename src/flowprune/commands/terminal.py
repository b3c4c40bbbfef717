"""How results are printed: as a table as wide as the terminal, or as JSON; and what is heard until then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

from flowprune.training.log_lines import heard_from

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(width: int) -> Console:
    """The terminal; where there is none, so many columns: a pipe has no width, and what reads it should get whole lines."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def at_work(words: Sequence[str]) -> AbstractContextManager[None]:
    """While a command line is carried out, a log hears that it is; unless it asks for quiet."""
    return nullcontext() if "--quiet" in words else heard_from(*words[:1])


def print_json(content: Any) -> None:
    """Print one line of JSON; paths are written as text."""
    typer.echo(json.dumps(content, default=str))
