"""The scale a filter's output leaves its layer with: what makes a filter dead or alive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from flowprune.engine.measuring.batches import input_of, model_device
from flowprune.engine.measuring.finiteness import in_double
from flowprune.engine.tracing import FilterLayer, FollowingNorm, Graph, filter_layers, observe, tensors_of, trace
from flowprune.errors import DataError

DEAD_BELOW = 1e-2
"""A filter is dead below this share of the network's 90th percentile of filter scales."""


def filter_scales(
    model: nn.Module,
    inputs: Any,
    batches: Iterable[Any] | None = None,
    graph: Graph | None = None,
    by_weights: bool = False,
) -> dict[FilterLayer, torch.Tensor | None]:
    """The standard deviation of every filter's output, as the running statistics tell it.

    With a batch norm behind the filter: ``s_c = |gamma_c| * sqrt(var_c / (var_c + eps))``, the deviation of what leaves
    the batch norm. Without one: the deviation of the filter's output over the images and positions of ``batches``.

    Args:
        model: any eager model; it is not touched.
        inputs: example inputs for the trace.
        batches: an iterable of inputs or (input, target) pairs, read once; only layers without a batch norm need it.
        graph: the evaluation pass, where the caller has traced it already.
        by_weights: whether to look at the weights, too: a filter all of whose weights are zero has the scale 0, whatever the
            running statistics say. In a layer that only data could tell, the scale of all others is then infinite.

    Returns:
        For every convolution and linear layer, in execution order: float64 ``[filters]``, or None where only data could
        tell and none was given.

    Raises:
        ModelError: a gamma or a running variance is NaN or infinite.
        DataError: ``batches`` is empty, or was read before.
    """
    graph = graph or trace(model, inputs)
    layers = filter_layers(model, inputs, graph)
    tensors = tensors_of(model)
    scales: dict[FilterLayer, torch.Tensor | None] = {}
    for layer in layers:
        scales[layer] = None
        if layer.norm is not None:
            variance = in_double(tensors, layer.norm.running_var)
            scales[layer] = norm_multiplier(layer.norm, tensors).abs() * variance.sqrt()
    unmeasured = [layer for layer in layers if layer.norm is None]
    if unmeasured and batches is not None:
        scales.update(_deviations(model, unmeasured, batches, graph))
    if by_weights:
        for layer in layers:
            silent = without_weights(tensors[layer.weight].detach(), layer.transposed, layer.groups).cpu()
            scale = scales[layer]
            if scale is not None:
                scales[layer] = scale.masked_fill(silent, 0.0)
            elif silent.any():
                scales[layer] = torch.full(silent.shape, torch.inf, dtype=torch.float64).masked_fill(silent, 0.0)
    return scales


def without_weights(weight: torch.Tensor, transposed: bool, groups: int) -> torch.Tensor:
    """``[filters]`` of bool: whether all weights of a filter are zero.

    Args:
        weight: ``[filters, ...]``.
        transposed: it is ``[inputs, filters / groups, ...]`` instead, its groups one after the other along the inputs.
        groups: of a convolution; 1 otherwise.
    """
    if transposed:
        weight = weight.unflatten(0, (groups, -1)).movedim(2, 1).flatten(0, 1)
    return (weight.flatten(1) == 0).all(dim=1)


def norm_multiplier(norm: FollowingNorm, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """gamma / sqrt(running_var + eps) of every channel: what the batch norm multiplies with, ``[channels]``."""
    variance = in_double(tensors, norm.running_var)
    multiplier = (variance + norm.eps).rsqrt()
    return multiplier if norm.weight is None else multiplier * in_double(tensors, norm.weight)


def reference_scale(scales: Mapping[FilterLayer, torch.Tensor | None]) -> float:
    """The 90th percentile of the scales of all measured convolutions' filters; 0 where there are none."""
    convolutions = [scale for layer, scale in scales.items() if scale is not None and layer.kind == "convolution"]
    known = [scale for scale in convolutions if bool(scale.isfinite().all())]
    return float(np.percentile(torch.cat(known).numpy(), 90)) if known else 0.0


def is_dead(scale: torch.Tensor, reference: float, threshold: float = DEAD_BELOW) -> torch.Tensor:
    """Which filters are dead, ``[filters]`` of bool. A filter that never varies at all is dead in any case."""
    return (scale < threshold * reference) | (scale == 0)


def _deviations(
    model: nn.Module, layers: list[FilterLayer], batches: Iterable[Any], graph: Graph
) -> dict[FilterLayer, torch.Tensor]:
    device = model_device(model)
    positions = {position for layer in layers for position in layer.positions}
    moments: dict[FilterLayer, _Moments] = {layer: _Moments() for layer in layers}
    images = 0
    with torch.random.fork_rng(devices=[]):
        for batch in batches:
            observed = observe(model, input_of(batch, device), positions, graph)
            images += 1
            for layer in layers:
                for position in layer.positions:
                    output = observed[position].movedim(layer.channel_dimension, 0).flatten(1)
                    moments[layer].add(output.to("cpu", torch.float64))
    if not images:
        raise DataError("no batch was given; an iterator can be read only once, so pass a list or a DataLoader")
    return {layer: moment.deviation() for layer, moment in moments.items()}


class _Moments:
    """Running mean and squared deviation per channel, merged batch by batch (Chan, Golub and LeVeque 1979): no
    cancellation."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, values: torch.Tensor) -> None:
        """Take in ``[channels, values]``."""
        count, mean = values.shape[1], values.mean(dim=1)
        squares = (values - mean[:, None]).square().sum(dim=1)
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def deviation(self) -> torch.Tensor:
        """``[channels]``: square root of the mean squared deviation."""
        return (self.squares / self.count).sqrt()
