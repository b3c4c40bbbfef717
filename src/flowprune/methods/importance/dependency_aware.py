"""Dependency aware filter pruning: a channel's gamma times what the layers behind make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring import finite
from flowprune.engine.tracing import tensors_of
from flowprune.methods.importance._scores.group_scores import normalized
from flowprune.methods.importance._weights.filters import rows_of
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, Member

LEAST_CHANNELS = 8


@REGISTRY.register("dafp")
class DAFP:
    """``I_c = |gamma_c| mean |W_next[:, c]|``, over the largest of its layer.

    Zhao, Zhang, Han and Cheng, Dependency Aware Filter Pruning, arXiv 2005.02634; compared with the first author's code: the mean
    goes over the filters and positions of the layer that reads channel c. Where several layers read it (a residual stream) or
    several norms scale it, it is the mean over them, each as it is. A channel without a batch norm has gamma = 1; one that no
    weight reads is the last to leave. Works with linear layers, grouped convolutions (which filters of their group read) and, as
    scaled by what reads them, hidden layers of transformers. Needs data: no. Labels: no. Gradients: no.

    Raises (when called):
        ModelError: a weight is NaN or infinite.
    """

    needs_data: ClassVar[bool] = False

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group, the largest 1; ``inf`` for a group that nobody reads."""
        layers = [group.name.partition("#")[0] for group in groups]  # a layer's channels may fall into several groups
        scored = [[(layer, one)] for layer, one in zip(layers, dependency(model, groups), strict=True)]
        return [one for (one,) in normalized(scored, "max")]


def dependency(model: nn.Module, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
    """The importance itself, float64 ``[channels]`` for each group; ``inf`` for a group that nobody reads."""
    tensors = tensors_of(model)
    norms = {
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.modules.batchnorm._NormBase)
    }
    return [_importance(tensors, norms, group) for group in groups]


def _importance(tensors: Mapping[str, torch.Tensor], norms: set[str], group: CoupledGroup) -> torch.Tensor:
    scales = [_mean(tensors, member) for member in group.members if member.name in norms]
    readers = [_mean(tensors, one) for one in group.members if one.role == "input" and tensors[one.name].ndim > 1]
    if not readers:
        return torch.full((group.channels,), torch.inf, dtype=torch.float64)
    scale = torch.stack(scales).mean(0) if scales else torch.ones(group.channels, dtype=torch.float64)
    return scale * torch.stack(readers).mean(0)


def _mean(tensors: Mapping[str, torch.Tensor], member: Member) -> torch.Tensor:
    """float64 ``[channels]``: the mean absolute value of the tensor at each channel's places."""
    tensor = finite(tensors[member.name], member.name)
    rows = rows_of(tensor, member.dimension).abs().double().mean(1).cpu()
    return rows[torch.as_tensor(member.indices, dtype=torch.int64)].mean(1)


def relative(importance: torch.Tensor) -> torch.Tensor:
    """Over the largest, where that is above 0 and finite."""
    largest = float(importance.max())
    return importance / largest if 0 < largest < float("inf") else importance


def sparsity_at(layers: Sequence[torch.Tensor], threshold: float) -> float:
    """The share of the channels of all layers whose importance is at most ``threshold`` times their layer's largest."""
    below = sum(int((layer <= threshold * layer.max()).sum()) for layer in layers)
    return below / sum(len(layer) for layer in layers)


def threshold_for(layers: Sequence[torch.Tensor], sparsity: float, tolerance: float = 1e-3) -> float:
    """A relative threshold at which so many channels are below it, by bisection of [0, 1].

    Args:
        layers: ``[channels]`` of each, the importance.
        sparsity: the share wanted.
        tolerance: it ends as near to that; where equal scores allow no such threshold, after 50 halvings.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        threshold = (low + high) / 2
        found = sparsity_at(layers, threshold)
        if abs(found - sparsity) <= tolerance:
            break
        low, high = (low, threshold) if found >= sparsity else (threshold, high)
    return threshold


def kept_at(layer: torch.Tensor, threshold: float, least: int = LEAST_CHANNELS) -> torch.Tensor:
    """bool ``[channels]``: at or above the threshold times the layer's largest; where at most ``least`` are, the best ``least``."""
    kept = layer >= threshold * layer.max()
    if int(kept.sum()) > least:
        return kept
    best = layer.argsort(descending=True, stable=True)[:least]
    return torch.zeros_like(kept).index_fill_(0, best, True)
