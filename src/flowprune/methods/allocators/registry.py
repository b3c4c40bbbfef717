"""The allocators by name: this package's own files and those of the entry-point group ``flowprune.allocators``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Allocator
from flowprune.errors import DataError
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Allocator]] = Registry("allocator", "flowprune.methods.allocators")


def allocator_named(given: Allocator | str) -> Allocator:
    """An allocator, or the one of this name that needs no data.

    Raises:
        UnknownNameError: there is no such allocator.
        DataError: it needs data, and so has to be built with them.
    """
    if not isinstance(given, str):
        return given
    if getattr(REGISTRY[given], "needs_data", False):
        raise DataError(
            f"allocator {given} needs data: give flowprune.methods.allocators.REGISTRY[{given!r}](batches) in place of its name"
        )
    found: Allocator = REGISTRY.built(given)
    return found
