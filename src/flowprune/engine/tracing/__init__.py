"""One traced pass of a model: which ATen operators run, on which tensors, inside which modules.

The unchanged eager forward runs under a ``TorchDispatchMode``, so any Python control flow just runs and only the few operators that
everything decomposes to are seen. Coupling, importance, measuring and the flow all read the same ``Graph``.
"""

from flowprune.engine.tracing.filter_layers import FilterLayer, FollowingNorm, filter_layers
from flowprune.engine.tracing.graph import Graph, ModuleCall, Operation, Reference
from flowprune.engine.tracing.recorder import trace
from flowprune.engine.tracing.replay import observe, replay
from flowprune.engine.tracing.shadow import (
    batch_size,
    call_model,
    first_tensor,
    meta_shadow,
    model_of,
    shadow,
    tensors_of,
)

__all__ = [
    "FilterLayer",
    "FollowingNorm",
    "Graph",
    "ModuleCall",
    "Operation",
    "Reference",
    "batch_size",
    "call_model",
    "filter_layers",
    "first_tensor",
    "meta_shadow",
    "model_of",
    "observe",
    "replay",
    "shadow",
    "tensors_of",
    "trace",
]
