"""Feature Flow Regularization, arXiv 2106.02914; it lives in ``flowprune.flow``."""

from __future__ import annotations

from flowprune.flow import FeatureFlow
from flowprune.regularizers.registry import REGISTRY

REGISTRY.register("ffr")(FeatureFlow)
