"""The allocators by name: this package's own files and those of the entry-point group ``flowprune.allocators``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Allocator
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Allocator]] = Registry("allocator", "flowprune.methods.allocators")
