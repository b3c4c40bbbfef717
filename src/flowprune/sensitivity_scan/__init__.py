"""How much accuracy each coupled group costs, measured by real cuts of that group alone."""

from __future__ import annotations

from flowprune.sensitivity_scan.result import CutPoint, GroupSensitivity, Sensitivity
from flowprune.sensitivity_scan.scan import SHARES, sensitivity

__all__ = ["SHARES", "CutPoint", "GroupSensitivity", "Sensitivity", "sensitivity"]
