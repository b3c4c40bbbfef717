"""The coupling engine: which parameter slices must leave together, found from one traced forward pass in each mode."""

from flowprune.engine.coupling.analysis import Analysis, Notes
from flowprune.engine.coupling.grouping import Coupling, group_channels
from flowprune.engine.coupling.groups import CoupledGroup, FeatureMap, Member
from flowprune.engine.coupling.rules import rule
from flowprune.engine.coupling.rules.pointwise import pointwise
from flowprune.engine.coupling.whole_passes import analyse

__all__ = [
    "Analysis",
    "CoupledGroup",
    "Coupling",
    "FeatureMap",
    "Member",
    "Notes",
    "analyse",
    "group_channels",
    "pointwise",
    "rule",
]
