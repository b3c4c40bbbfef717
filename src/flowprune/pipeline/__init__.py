"""The whole job: train, prune, fine-tune, measure, report, from a recipe into a run folder."""

from __future__ import annotations

from flowprune.pipeline.criteria import importance_from
from flowprune.pipeline.folder import RunFolder
from flowprune.pipeline.measurement import measured
from flowprune.pipeline.run import run

__all__ = ["RunFolder", "importance_from", "measured", "run"]
