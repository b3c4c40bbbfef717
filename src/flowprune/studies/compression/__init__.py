"""From a trained model to a smaller one: validation images choose how it is cut, and what that costs is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprune.registry import on_first_use

if TYPE_CHECKING:
    from flowprune.studies.compression.compressing import Compressed, compress
    from flowprune.studies.compression.rounds import Round

__all__ = ["Compressed", "Round", "compress"]

# Imported on first use: how many images a drop takes (``paired_drop``) is said without waiting for torch.
_HOMES = {
    "flowprune.studies.compression.compressing": "Compressed compress",
    "flowprune.studies.compression.rounds": "Round",
}

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
