"""The systems of the literature, one file each: of which methods they are made, with their published settings."""

from __future__ import annotations

from flowprune.methods.presets.preset import KINDS, Preset
from flowprune.methods.presets.registry import REGISTRY

__all__ = ["KINDS", "REGISTRY", "Preset"]
