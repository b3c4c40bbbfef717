"""Which integer attributes of modules a piece of code reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from flowprune.engine.tracing.expressions import Attribute


@contextmanager
def reading(module: nn.Module) -> Iterator[dict[Attribute, None]]:
    """Inside, the integers of ``module`` and of the modules in it that are read, as it goes; torch's own modules left out.

    Meanwhile the modules are objects of subclasses that look at every attribute on its way out.
    """
    read: dict[Attribute, None] = {}
    watched: list[tuple[nn.Module, type[nn.Module]]] = []
    for path, owner in list(module.named_modules()):
        kind: Any = type(owner)
        if not kind.__module__.startswith("torch."):
            watched.append((owner, kind))
            owner.__class__ = type(kind.__name__, (kind,), {"__getattribute__": _looking(kind, path, read)})
    try:
        yield read
    finally:
        for owner, kind in watched:
            owner.__class__ = kind


def _looking(kind: Any, path: str, read: dict[Attribute, None]) -> Any:
    def look(self: Any, name: str) -> Any:
        held = kind.__getattribute__(self, name)
        if type(held) is int:
            if name in object.__getattribute__(self, "__dict__"):
                read[Attribute(path, name)] = None
        elif type(held) in (list, tuple) and held and all(type(entry) is int for entry in held):
            read.update((Attribute(path, name, place), None) for place in range(len(held)))
        return held

    return look
