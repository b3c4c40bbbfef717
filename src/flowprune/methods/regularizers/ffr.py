"""Feature Flow Regularization, arXiv 2106.02914; it lives in ``flowprune.methods.regularizers.feature_flow``."""

from __future__ import annotations

from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.registry import REGISTRY

REGISTRY.register("ffr")(FeatureFlow)
