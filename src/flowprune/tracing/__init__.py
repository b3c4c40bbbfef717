"""One traced pass of a model: which ATen operators run, on which tensors, inside which modules.

The unchanged eager forward runs under a ``TorchDispatchMode``, so any Python control flow just runs and only the few operators that
everything decomposes to are seen. Coupling, importance, measuring and the flow all read the same ``Graph``.
"""

from flowprune.tracing.graph import Graph, ModuleCall, Operation, Reference, Value
from flowprune.tracing.integers import Integer
from flowprune.tracing.recorder import trace
from flowprune.tracing.replay import observe, replay
from flowprune.tracing.shadow import batch_size, call_model, first_tensor, meta_shadow, model_of, shadow

__all__ = [
    "Graph",
    "Integer",
    "ModuleCall",
    "Operation",
    "Reference",
    "Value",
    "batch_size",
    "call_model",
    "first_tensor",
    "meta_shadow",
    "model_of",
    "observe",
    "replay",
    "shadow",
    "trace",
]
