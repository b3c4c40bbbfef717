"""The replacements by name: this package's files and those of the entry-point group ``flowprune.replacements``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Replacement
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Replacement]] = Registry("replacement", "flowprune.methods.replacements")
