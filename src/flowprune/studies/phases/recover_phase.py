"""A phase in which accuracy comes back."""

from __future__ import annotations

from typing import ClassVar, Literal

from flowprune.studies.phases.training_phase import TrainingPhase


class RecoverPhase(TrainingPhase):
    """Train what was cut, masked, replaced or quantized again."""

    phase: Literal["recover"] = "recover"
    stage: ClassVar[str] = "finetuned"
    verb: ClassVar[str] = "fine-tune"
    changes_shape: ClassVar[bool] = False
