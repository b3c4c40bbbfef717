"""The importance criteria by name: this package's own files and those of the entry-point group
``flowprune.importance``."""

from __future__ import annotations

from flowprune.engine.interfaces import Importance
from flowprune.registry import Registry

REGISTRY: Registry[type[Importance]] = Registry("importance", "flowprune.methods.importance")
