"""The feature flow of a model: its trajectory from layer to layer, the FFR penalty on it, and a profile of it."""

from flowprune.flow.feature_flow import FeatureFlow
from flowprune.flow.paths import FlowPaths, flow_paths
from flowprune.flow.points import Point
from flowprune.flow.profile import FlowProfile, PointProfile
from flowprune.flow.stage_paths import StagePaths

__all__ = ["FeatureFlow", "FlowPaths", "FlowProfile", "Point", "PointProfile", "StagePaths", "flow_paths"]
