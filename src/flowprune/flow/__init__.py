"""The feature flow of a model: its trajectory from layer to layer, the FFR penalty on it, and a profile of it."""

from flowprune.flow.feature_flow import FeatureFlow
from flowprune.flow.points import Point
from flowprune.flow.profile import FlowProfile, PointProfile

__all__ = ["FeatureFlow", "FlowProfile", "Point", "PointProfile"]
