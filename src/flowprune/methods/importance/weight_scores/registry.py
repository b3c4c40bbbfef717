"""The scores of single weights by name: this package's own files and those of the entry-point group
``flowprune.weight_scores``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import WeightScore
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., WeightScore]] = Registry("weight score", "flowprune.methods.importance.weight_scores")
