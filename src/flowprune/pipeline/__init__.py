"""The whole job: train, prune, fine-tune, measure, report, from a recipe into a run folder.

The job itself is ``flowprune.pipeline.run.run``; it is not imported here, because the small commands share this room's smaller
parts and should not wait for the rest.
"""

from __future__ import annotations

from flowprune.pipeline.criteria import importance_from
from flowprune.pipeline.folder import RunFolder
from flowprune.pipeline.measurement import measured

__all__ = ["RunFolder", "importance_from", "measured"]
