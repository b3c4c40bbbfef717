"""Run the real model once more, operator by operator, and look at (or replace) what the traced operators return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flowprune.engine.tracing.graph import Graph
from flowprune.engine.tracing.operator_log import is_unseen
from flowprune.engine.tracing.random_numbers import repeated_outside_torch
from flowprune.engine.tracing.recorder import spelled_out_attention, trace
from flowprune.engine.tracing.shadow import call_model, model_of, shadow

Position = tuple[int, int]
"""(operation index in the graph, which of its outputs)."""


Visit = Callable[[int, Callable[[], Any], tuple[Any, ...], dict[str, Any]], Any]
"""(index in the graph, run the operator, its arguments, its keywords) -> what the operator shall return, usually ``run()``."""


class _Visitor(TorchDispatchMode):
    """Knows an operation as the k-th call of its operator: real tensors may take a copy more or less than tensors without data."""

    def __init__(self, graph: Graph, visit: Visit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._visit = visit
        self._indices: dict[Any, list[int]] = {}
        for operation in graph.operations:
            self._indices.setdefault(operation.function.overloadpacket, []).append(operation.index)
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = function.overloadpacket
        indices, call = self._indices.get(packet, []), self.calls[packet]
        if is_unseen(function) or call >= len(indices):
            return function(*args, **(kwargs or {}))
        self.calls[packet] += 1
        return self._visit(indices[call], lambda: function(*args, **(kwargs or {})), args, kwargs or {})


def replay(model: nn.Module, inputs: Any, visit: Visit, graph: Graph | None = None) -> Any:
    """Run ``model`` in evaluation mode without gradients, every ATen operator of its pass through ``visit``.

    ``visit(index, run, arguments, keywords)`` returns what the operator shall return, usually ``run()``. Indices are those of
    ``graph``, which is ``trace(model, inputs)`` unless given. A shadow that shares the model's tensors runs, so modes and
    training-time hooks stay untouched.
    """
    twin = shadow(model_of(model), lambda tensor: tensor).eval()
    visitor = _Visitor(graph or trace(model, inputs), visit)
    with repeated_outside_torch(), spelled_out_attention(), torch.no_grad(), visitor:
        return call_model(twin, inputs)


def observe(
    model: nn.Module, inputs: Any, positions: Collection[Position], graph: Graph | None = None
) -> dict[Position, torch.Tensor]:
    """The tensors that one evaluation-mode forward of ``model`` makes at ``positions`` of its traced ``graph``.

    They are copies: a later in-place operator (``ReLU(inplace=True)``) would overwrite what was seen.
    """
    wanted: dict[int, list[int]] = {}
    for index, output in positions:
        wanted.setdefault(index, []).append(output)
    seen: dict[Position, torch.Tensor] = {}

    def visit(index: int, run: Callable[[], Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        result = run()
        for output in wanted.get(index, ()):
            tensor = result[output] if isinstance(result, (tuple, list)) else result
            seen[index, output] = tensor.clone()
        return result

    replay(model, inputs, visit, graph)
    return seen
