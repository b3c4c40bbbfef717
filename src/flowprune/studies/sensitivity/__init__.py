"""How much accuracy each coupled group costs, measured by real cuts of that group alone."""

from __future__ import annotations

from flowprune.studies.sensitivity.by_sensitivity import BySensitivity
from flowprune.studies.sensitivity.result import CutPoint, GroupSensitivity, Sensitivity
from flowprune.studies.sensitivity.scan import SHARES, sensitivity

__all__ = ["SHARES", "BySensitivity", "CutPoint", "GroupSensitivity", "Sensitivity", "sensitivity"]
