"""The masks by name: this package's own files and those of the entry-point group ``flowprune.masks``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Mask
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Mask]] = Registry("mask", "flowprune.methods.masks")
