"""Which layers make the channels of each unit, and what maps they give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from flowprune.engine.interfaces import AllocationProblem
from flowprune.engine.measuring.batches import input_of, model_device
from flowprune.engine.tracing.shadow import call_model
from flowprune.errors import BudgetError, DataError, ModelError


def makers_of_units(problem: AllocationProblem, dense: nn.Module) -> list[list[str]]:
    """For each unit, the convolutions and linear layers that have fewer filters where it alone has lost something.

    Args:
        problem: the units: classes of coupled groups.
        dense: the probe that has lost nothing.

    Raises:
        BudgetError: the units are tensors of weights.
    """
    if problem.shapes is not None:
        raise BudgetError(
            "feature maps say how many channels are kept, not which single weights of a tensor; use global_rank, lamp or "
            "rate_distortion for masks"
        )
    before = _filters(dense)
    found = []
    for unit, limit in enumerate(problem.limits.tolist()):
        alone = np.zeros(len(problem.units), dtype=np.int64)
        alone[unit] = limit
        after = _filters(problem.probe(problem.rounding(alone))) if limit else before
        found.append([name for name, filters in before.items() if after.get(name, filters) < filters])
    return found


def average_maps(model: nn.Module, layers: Iterable[str], batches: Iterable[Any]) -> dict[str, NDArray[np.float64]]:
    """``[channels, places]``: each layer's raw output, averaged over the images.

    A layer whose outputs have no places (a linear layer on flat features) has the images in their stead. Of a layer that is called
    more often, the last call counts.

    Raises:
        DataError: there is no batch.
        ModelError: an average is NaN or infinite, or a layer is never called.
    """
    modules = dict(model.named_modules())
    taken: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    flat: dict[str, list[torch.Tensor]] = {}
    hooks = [
        modules[name].register_forward_hook(lambda _module, _given, output, name=name: taken.__setitem__(name, output))
        for name in layers
    ]
    images = 0
    try:
        for batch in batches:
            taken.clear()
            with torch.no_grad():
                call_model(model, input_of(batch, model_device(model)))
            images += len(next(iter(taken.values()), torch.empty(0)))
            for name, output in taken.items():
                maps = output.double() if isinstance(modules[name], _ConvNd) else output.double().movedim(-1, 1)
                if maps.ndim == 2:
                    flat.setdefault(name, []).append(maps.T)
                else:
                    sums[name] = sums.get(name, 0) + maps.sum(0).flatten(1)
    finally:
        for hook in hooks:
            hook.remove()
    if not images and hooks:
        raise DataError("clusters of feature maps need calibration batches, and none was given")
    found = {name: total / images for name, total in sums.items()} | {k: torch.cat(v, 1) for k, v in flat.items()}
    return {name: _finite(maps, name) for name, maps in found.items()}


def _filters(model: nn.Module) -> Mapping[str, int]:
    sizes = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            sizes[name] = module.out_channels
        elif isinstance(module, nn.Linear):
            sizes[name] = module.out_features
    return sizes


def _finite(maps: torch.Tensor, layer: str) -> NDArray[np.float64]:
    if not maps.isfinite().all():
        raise ModelError(f"the feature maps of {layer} are NaN or infinite, so they cannot be compared")
    return np.asarray(maps.cpu().numpy())
