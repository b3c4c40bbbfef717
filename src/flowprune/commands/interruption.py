"""What to tell somebody who interrupted a command: how to go on."""

from __future__ import annotations

_advice: list[str] = []


def can_go_on_with(command: str) -> None:
    """From now on an interrupted command can be taken up again by ``command``."""
    _advice[:] = [command]


def advice() -> str:
    """The end of the line that says so."""
    return f"; `{_advice[0]}` goes on where it stopped" if _advice else ""
