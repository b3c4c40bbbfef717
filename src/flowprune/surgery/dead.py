"""Dead filters: those whose batch norm scales them to nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowprune.coupling.roles import layer_of
from flowprune.coupling.rules import rule_of
from flowprune.coupling.rules.normalization import batch_norm
from flowprune.tracing import Graph, Reference


def filter_scales(model: nn.Module, graph: Graph) -> dict[str, torch.Tensor]:
    """The scale of every filter that a batch norm with running statistics follows: s = |gamma| * sqrt(var / (var + eps)).

    Returns:
        layer -> [filters], float64. A layer without such a batch norm is not in it: its filters cannot be judged by weights alone.
    """
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    producers = graph.producers()
    scales: dict[str, torch.Tensor] = {}
    for operation in graph.operations:
        if rule_of(operation) is not batch_norm:
            continue
        maker = producers.get(operation.argument("input").value)
        if maker is None or maker.name not in ("aten.convolution", "aten._convolution", "aten.mm", "aten.addmm"):
            continue
        variance, gamma = operation.argument("running_var"), operation.argument("weight")
        if not isinstance(variance, Reference) or variance.value not in graph.parameters:
            continue
        held = tensors[graph.parameters[variance.value]].detach().double().cpu()
        epsilon = operation.argument("eps", operation.argument("epsilon", 1e-5))
        scale = torch.sqrt(held / (held + epsilon))
        if isinstance(gamma, Reference) and gamma.value in graph.parameters:
            scale = scale * tensors[graph.parameters[gamma.value]].detach().double().cpu().abs()
        layer = layer_of(maker, graph)
        scales[layer] = torch.maximum(scales[layer], scale) if layer in scales else scale
    return scales


def dead_filters(scales: dict[str, torch.Tensor], threshold: float) -> dict[str, NDArray[np.bool_]]:
    """layer -> which filters are dead: their scale is below ``threshold`` times the network's 90th percentile of all scales."""
    if not scales:
        return {}
    limit = threshold * float(torch.quantile(torch.cat(list(scales.values())), 0.9))
    return {layer: np.asarray((scale < limit).numpy(), dtype=bool) for layer, scale in scales.items()}
