"""Run the real model once more, operator by operator, and look at (or replace) what the traced operators return."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flowprune.tracing.recorder import is_unseen, spelled_out_attention
from flowprune.tracing.shadow import call_model, model_of, shadow

Position = tuple[int, int]
"""(operation index in the graph, which of its outputs)."""


class _Visitor(TorchDispatchMode):
    def __init__(self, visit: Callable[[int, Callable[[], Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._visit = visit
        self._index = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_unseen(function):
            return function(*args, **(kwargs or {}))
        index, self._index = self._index, self._index + 1
        return self._visit(index, lambda: function(*args, **(kwargs or {})), args, kwargs or {})


def replay(
    model: nn.Module, inputs: Any, visit: Callable[[int, Callable[[], Any], tuple[Any, ...], dict[str, Any]], Any]
) -> Any:
    """Run ``model`` in evaluation mode without gradients, every ATen operator through ``visit``.

    ``visit(index, run, arguments, keywords)`` returns what the operator shall return, usually ``run()``. Indices are those of
    ``trace(model, inputs)``. A shadow that shares the model's tensors runs, so modes and training-time hooks stay untouched.
    """
    twin = shadow(model_of(model), lambda tensor: tensor).eval()
    with spelled_out_attention(), torch.no_grad(), _Visitor(visit):
        return call_model(twin, inputs)


def observe(model: nn.Module, inputs: Any, positions: Collection[Position]) -> dict[Position, torch.Tensor]:
    """The tensors that one evaluation-mode forward of ``model`` makes at ``positions`` of its traced graph.

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

    replay(model, inputs, visit)
    return seen
