"""The quantizers by name: this package's files and those of the entry-point group ``flowprune.quantizers``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Quantizer
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Quantizer]] = Registry("quantizer", "flowprune.methods.quantizers")
