"""A phase that trains."""

from __future__ import annotations

from typing import ClassVar, Literal

from flowprune.studies.phases.training_phase import TrainingPhase


class TrainPhase(TrainingPhase):
    """Train the network, from the seed's starting weights or as the phase before left it."""

    phase: Literal["train"] = "train"
    stage: ClassVar[str] = "dense"
    verb: ClassVar[str] = "train"
    changes_shape: ClassVar[bool] = False
