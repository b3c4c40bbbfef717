"""The feature flow of a model: its trajectory from layer to layer, the FFR penalty on it, and a profile of it."""

from flowprune.methods.regularizers.feature_flow.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.points.points import Point
from flowprune.methods.regularizers.feature_flow.profile import FlowProfile, PointProfile

__all__ = ["FeatureFlow", "FlowProfile", "Point", "PointProfile"]
