"""Unstructured sparsity: how many weights are as good as zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.measuring.filter_scales import norm_multiplier
from flowprune.engine.measuring.finiteness import in_double
from flowprune.engine.tracing import FilterLayer, filter_layers, tensors_of

NEGLIGIBLE_BELOW = 1e-3
"""A weight is negligible below this share of the network's 90th percentile of absolute weights."""


@dataclass(frozen=True)
class LayerSparsity:
    """One convolution or linear layer: shares in [0, 1] of its ``weights`` weights, as in ``Sparsity``."""

    layer: str
    weights: int
    effective: float
    raw: float
    zeros: float


@dataclass(frozen=True)
class Sparsity:
    """Shares, in [0, 1], of the convolution and linear weights of a network.

    Attributes:
        effective: share of effective weights (gamma / sqrt(var + eps) * W) below 1e-3 of the network's 90th percentile
            of their absolute values. Training under a flow penalty kills filters through gamma first, and this sees it.
        raw: the same of the weights as they are stored.
        zeros: share of stored weights that are exactly zero.
        weights: how many there are; biases and normalisations are not among them.
        layers: one row for each layer, in execution order.
    """

    effective: float
    raw: float
    zeros: float
    weights: int
    layers: tuple[LayerSparsity, ...]


def sparsity(model: nn.Module, inputs: Any) -> Sparsity:
    """Measure the unstructured sparsity of a model.

    Args:
        model: any eager model; it is not touched.
        inputs: example inputs for the trace that pairs layers with their batch norms.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    layers = filter_layers(model, inputs)
    tensors = tensors_of(model)
    raw = [in_double(tensors, layer.weight).abs().flatten().numpy() for layer in layers]
    effective = [effective_weight(layer, tensors).abs().flatten().numpy() for layer in layers]
    negligible_raw, negligible = _negligible(raw), _negligible(effective)
    zero = [weights == 0 for weights in raw]
    rows = tuple(
        LayerSparsity(layer.name, len(a), _share([b]), _share([a]), _share([z]))
        for layer, a, b, z in zip(layers, negligible_raw, negligible, zero, strict=True)
    )
    return Sparsity(
        effective=_share(negligible),
        raw=_share(negligible_raw),
        zeros=_share(zero),
        weights=sum(row.weights for row in rows),
        layers=rows,
    )


def effective_weight(layer: FilterLayer, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """gamma / sqrt(var + eps) * W: the weight once the batch norm behind it is folded in; W itself where there is none.

    Returns:
        float64 on the CPU, in the weight's shape.
    """
    weight = in_double(tensors, layer.weight)
    if layer.norm is None:
        return weight
    multiplier = norm_multiplier(layer.norm, tensors)
    if not layer.transposed:
        return weight * multiplier.view(-1, *[1] * (weight.ndim - 1))
    # A transposed convolution's weight is [inputs, filters / groups, ...], its groups one after the other along the
    # inputs.
    grouped: torch.Tensor = weight.unflatten(0, (layer.groups, -1))
    scaled = grouped * multiplier.view(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
    return scaled.flatten(0, 1)


def _negligible(weights: list[NDArray[np.float64]]) -> list[NDArray[np.bool_]]:
    """Which weights are below the threshold; exact zeros always are, also where nine tenths of the network are zero."""
    if not weights:
        return []
    limit = NEGLIGIBLE_BELOW * float(np.percentile(np.concatenate(weights), 90))
    return [(part < limit) | (part == 0) for part in weights]


def _share(flags: list[NDArray[np.bool_]]) -> float:
    total = sum(part.size for part in flags)
    return sum(int(part.sum()) for part in flags) / total if total else 0.0
