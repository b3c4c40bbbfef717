"""The whole job: train, prune, fine-tune, measure, report, from a recipe into a run folder.

The job itself is ``flowprune.studies.pipeline.run.run``; it is not imported here, because the small commands share this room's
smaller parts and should not wait for the rest.
"""

from __future__ import annotations

from flowprune.studies.phases.criteria import importance_from
from flowprune.studies.pipeline.measurement import measured
from flowprune.studies.pipeline.run_folder import RunFolder

__all__ = ["RunFolder", "importance_from", "measured"]
