"""What acts during training, by name: this package's files and those of the entry-point group ``flowprune.regularizers``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Regularizer
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Regularizer]] = Registry("regularizer", "flowprune.methods.regularizers")
