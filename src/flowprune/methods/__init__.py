"""The methods of the literature, one file each, by what they are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from flowprune.errors import UnknownNameError
from flowprune.registry import Registry, names_written_in


def list_methods(room: str) -> list[str]:
    """The names of the methods of one kind: this package's, and those that others add by entry points.

    Args:
        room: a folder of ``flowprune.methods``, such as "importance" or "regularizers".

    Raises:
        UnknownNameError: there is no such room; the message names those that there are.

    Example:
        >>> import flowprune as fp
        >>> "nuclear_norm" in fp.list_methods("importance"), "ffr" in fp.list_methods("regularizers")
        (True, True)
    """
    return list(registry_of(room))


def registry_of(room: str) -> Registry[Any]:
    """The methods of one kind by name.

    Raises:
        UnknownNameError: there is no such room; the message names those that there are.
    """
    rooms = sorted(file.parent.name for folder in __path__ for file in Path(folder).glob("*/registry.py"))
    if room not in rooms:
        raise UnknownNameError("room of methods", room, rooms, name_all=True)
    found: Registry[Any] = importlib.import_module(f"{__name__}.{room}.registry").REGISTRY
    return found


def names_before_import(room: str) -> list[str]:
    """What ``list_methods`` gives, read from the files without importing one: a slip is refused without waiting for torch."""
    return names_written_in(f"{__name__}.{room}")
