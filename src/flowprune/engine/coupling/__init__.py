"""The coupling engine: which parameter slices must leave together, found from one traced forward pass in each mode."""

from flowprune.engine.coupling.analysis import analyse
from flowprune.engine.coupling.dense_propagation import Analysis
from flowprune.engine.coupling.grouping import Coupling, group_channels
from flowprune.engine.coupling.groups import CoupledGroup, FeatureMap, Member
from flowprune.engine.coupling.notes import Notes
from flowprune.engine.coupling.rules import rule
from flowprune.engine.coupling.rules.pointwise import pointwise

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
