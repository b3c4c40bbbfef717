"""What a channel is worth: one criterion a file, all of them callables from coupled groups to one number per
channel.

The classes are handed out by their names, ``flowprune.importance.L2``, from whichever file they are in: a new file needs no entry.
"""

from __future__ import annotations

from typing import Any

from flowprune.engine.interfaces import Importance as Importance
from flowprune.methods.importance.registry import REGISTRY as REGISTRY


def __getattr__(name: str) -> Any:
    if name == "__all__":  # what a star imports
        return ["REGISTRY", "Importance", *REGISTRY.own()]
    try:
        return REGISTRY.own()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *REGISTRY.own()})
