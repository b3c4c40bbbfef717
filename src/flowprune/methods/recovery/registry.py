"""The recoveries by name: this package's files and those of the entry-point group ``flowprune.recovery``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Recovery
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Recovery]] = Registry("recovery", "flowprune.methods.recovery")
