"""What to tell somebody who interrupted a command: how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_advice: list[str] = []
_given: list[str] = []


def can_go_on_with(command: str) -> None:
    """From now on an interrupted command can be taken up again by ``command``."""
    _advice[:] = [command]


def given(words: Sequence[str]) -> None:
    """Remember the command line, for a command that goes on by ``--resume``."""
    _given[:] = [word for word in words if word != "--resume"]


def can_go_on_by_resume(*without: str) -> None:
    """From now on this command, interrupted, goes on if it is given once more with ``--resume``, and without these options."""
    can_go_on_with(shlex.join(["flowprune", *(word for word in _given if word not in without), "--resume"]))


def advice() -> str:
    """The end of the line that says so."""
    return f"; `{_advice[0]}` goes on where it stopped" if _advice else ""


def resuming(
    command: str, recipe: Path | None, method: str | None, changes: Sequence[str], folder: Path, data_dir: Path | None
) -> str:
    """The command line that goes on with a job from a recipe. Before its folder is claimed there is nothing to go on with, but then
    resuming simply begins.
    """
    parts = ["flowprune", command, *([str(recipe)] if recipe is not None else [])]
    parts += ["--method", method] if method is not None else []
    for change in changes:
        parts += ["--set", change]
    parts += ["--out", str(folder), *(["--data-dir", str(data_dir)] if data_dir is not None else []), "--resume"]
    return shlex.join(parts)
