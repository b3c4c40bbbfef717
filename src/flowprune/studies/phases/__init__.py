"""The phases a recipe is made of: one file each, its section of the recipe and how it is carried out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flowprune.studies.phases.cut_phase import CutPhase
from flowprune.studies.phases.mask_phase import MaskPhase
from flowprune.studies.phases.quantize_phase import QuantizePhase
from flowprune.studies.phases.recover_phase import RecoverPhase
from flowprune.studies.phases.replace_phase import ReplacePhase
from flowprune.studies.phases.train_phase import TrainPhase

Phase = TrainPhase | MaskPhase | ReplacePhase | QuantizePhase | CutPhase | RecoverPhase

AnyPhase = Annotated[Phase, Field(discriminator="phase")]
"""A phase as a recipe has it; the key ``phase`` says which."""

__all__ = [
    "AnyPhase",
    "CutPhase",
    "MaskPhase",
    "Phase",
    "QuantizePhase",
    "RecoverPhase",
    "ReplacePhase",
    "TrainPhase",
]
