"""flowprune: train with feature flow regularization, prune what the flow does not need, get back a smaller PyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprune.old_paths import keep_working
from flowprune.registry import on_first_use

if TYPE_CHECKING:
    from flowprune import errors, models
    from flowprune.artifacts import export, load, save
    from flowprune.engine.allocation import Plan
    from flowprune.engine.interfaces import Training
    from flowprune.engine.steps import hold
    from flowprune.errors import FlowpruneError, FlowpruneWarning
    from flowprune.explanation import explain
    from flowprune.methods import importance, list_methods
    from flowprune.methods.codecs import measure
    from flowprune.methods.masks import mask
    from flowprune.methods.quantizers import quantize
    from flowprune.methods.recovery import recover
    from flowprune.methods.regularizers.feature_flow import FeatureFlow
    from flowprune.methods.replacements import replace
    from flowprune.pruning import plan, prune, prune_iteratively
    from flowprune.studies.comparison import compare
    from flowprune.studies.compression import compress
    from flowprune.studies.flow_paths import flow_paths
    from flowprune.studies.recipe import load_recipe
    from flowprune.studies.sensitivity import sensitivity
    from flowprune.training import TrainingSettings, data_from, evaluate, load_data, train

__version__ = "0.1.0"

__all__ = [
    "FeatureFlow",
    "FlowpruneError",
    "FlowpruneWarning",
    "Plan",
    "Training",
    "TrainingSettings",
    "compare",
    "compress",
    "data_from",
    "errors",
    "evaluate",
    "explain",
    "export",
    "flow_paths",
    "hold",
    "importance",
    "list_methods",
    "load",
    "load_data",
    "load_recipe",
    "mask",
    "measure",
    "models",
    "plan",
    "prune",
    "prune_iteratively",
    "quantize",
    "recover",
    "replace",
    "save",
    "sensitivity",
    "train",
]

keep_working()

# Imported on first use: `flowprune --help` must not wait for torch.
_HOMES = {
    "flowprune.artifacts": "export load save",
    "flowprune.engine.allocation": "Plan",
    "flowprune.engine.interfaces": "Training",
    "flowprune.engine.steps": "hold",
    "flowprune.errors": "FlowpruneError FlowpruneWarning errors",
    "flowprune.explanation": "explain",
    "flowprune.importance": "importance",
    "flowprune.methods": "list_methods",
    "flowprune.methods.codecs": "measure",
    "flowprune.methods.masks": "mask",
    "flowprune.methods.quantizers": "quantize",
    "flowprune.methods.recovery": "recover",
    "flowprune.methods.regularizers.feature_flow": "FeatureFlow",
    "flowprune.methods.replacements": "replace",
    "flowprune.models": "models",
    "flowprune.pruning": "plan prune prune_iteratively",
    "flowprune.studies.comparison": "compare",
    "flowprune.studies.compression": "compress",
    "flowprune.studies.flow_paths": "flow_paths",
    "flowprune.studies.recipe": "load_recipe",
    "flowprune.studies.sensitivity": "sensitivity",
    "flowprune.training": "TrainingSettings data_from evaluate load_data train",
}


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
