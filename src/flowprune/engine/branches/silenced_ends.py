"""The last word on a restructured model: in float64 it says what the model says whose dead ends are silenced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only

from flowprune.engine.constants import constants_behind
from flowprune.engine.tracing import FilterLayer, Graph, Reference, call_model, shadow, tensors_of
from flowprune.engine.tracing.shadow import own_tensor

TOLERANCE = 1e-7
"""Largest difference of an output, as a share of its largest value."""


Silence = tuple[NDArray[np.bool_], Tensor]
"""[channels] which filters of a batch norm are dead, and [channels] what they say."""


def silences(
    model: nn.Module, graph: Graph, layers: Iterable[FilterLayer], dead: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Silence]:
    """Batch norm -> its dead filters and their constants.

    Args:
        model: the dense model.
        graph: its evaluation pass.
        layers: its filter layers.
        dead: layer -> which of its filters are dead.
    """
    found: dict[str, Silence] = {}
    tensors = tensors_of(model)
    norms = {layer.norm.running_mean: layer.name for layer in layers if layer.norm is not None}
    for operation in graph.operations:
        mean = operation.argument("running_mean")
        layer = norms.get(graph.parameters.get(mean.value, "")) if isinstance(mean, Reference) else None
        mask = dead.get(layer) if layer is not None else None
        said = constants_behind(operation, graph, graph.producers(), tensors) if mask is not None else None
        if mask is not None and said is not None and mask.any():
            found[operation.module] = mask, said[1].detach()
    return found


def silenced(model: nn.Module, silences: Mapping[str, Silence]) -> nn.Module:
    """A copy of ``model`` whose dead filters say their constants and nothing else.

    Args:
        model: the dense model.
        silences: batch norm -> its dead filters and their constants.
    """
    twin = shadow(model, own_tensor)
    for path, (mask, said) in silences.items():
        norm = twin.get_submodule(path)
        if not isinstance(norm, _BatchNorm):
            continue
        with torch.no_grad():
            if norm.weight is not None:
                norm.weight[torch.from_numpy(mask).to(norm.weight.device)] = 0.0
            if norm.bias is not None:
                chosen = torch.from_numpy(mask).to(norm.bias.device)
                norm.bias[chosen] = said.to(norm.bias)[chosen]
    return twin


def difference(left: nn.Module, right: nn.Module, inputs: Any) -> float | None:
    """The largest difference between two models' outputs, as a share of the largest value, in float64 and evaluation mode.

    Args:
        left, right: copies that may be changed.
        inputs: example inputs; floating-point ones are drawn anew, in the same shapes.

    Returns:
        None where ``right`` does not run in float64; infinity where only ``left`` does not.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)

    given = tree_map_only(Tensor, drawn, inputs)

    def said(model: nn.Module) -> list[Any]:
        with torch.no_grad():
            return tree_leaves(call_model(model.double().eval(), given))

    try:
        second = said(right)
    except Exception:  # the user's forward: no answer to compare with
        return None
    try:
        first = said(left)
    except Exception:  # it takes what the other one takes, or it is wrong
        return float("inf")
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor) and a.is_floating_point()]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    scale = max((float(a.abs().max()) for a, _ in pairs if a.numel()), default=1.0) or 1.0
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0) / scale
