"""The storage formats by name: this package's files and those of the entry-point group ``flowprune.codecs``."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.engine.interfaces import Codec
from flowprune.registry import Registry

REGISTRY: Registry[Callable[..., Codec]] = Registry("codec", "flowprune.methods.codecs")
