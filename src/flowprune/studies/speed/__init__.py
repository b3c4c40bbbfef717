"""How fast models are, side by side: backends, batch sizes and threads, in turns."""

from __future__ import annotations

from flowprune.studies.speed.side_by_side import Conditions, Contestant, SpeedRow, side_by_side

__all__ = ["Conditions", "Contestant", "SpeedRow", "side_by_side"]
