"""The decisions by name: this package's files and those of the entry-point group ``flowprune.decisions``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from flowprune.engine.interfaces import Outcome
from flowprune.registry import Registry

Decision = Callable[[nn.Module], Outcome]
"""Built as ``Method(batches, **options)``; what is to leave a model, which stays as it is."""

REGISTRY: Registry[Callable[..., Decision]] = Registry("decision", "flowprune.methods.decisions")
