"""Which layers read what a cut has made narrower, and what can be refitted in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import CutSlices
from flowprune.engine.tracing.filter_layers import FilterLayer, filter_layers

REFITTED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Consumer:
    """A layer that can be refitted.

    Attributes:
        name: dotted path in both networks.
        small, dense: the layer in each.
        filters: which of the dense layer's filters the small one has, int64, on the layer's device.
        weight_name: of its weight in both.
        constant_name: of what takes a constant.
        constant: what takes a constant: the layer's own bias, the running mean of the batch norm that alone reads the layer
            (which subtracts it), or None.
        subtracted: whether it is that running mean.
    """

    name: str
    small: Any
    dense: Any
    filters: Tensor
    weight_name: str
    constant_name: str | None
    constant: Tensor | None
    subtracted: bool


@dataclass(frozen=True)
class Consumers:
    """The layers that can be refitted, and why the others that the cut has made narrower cannot; both by name."""

    layers: Mapping[str, Consumer]
    left: Mapping[str, str]


def consumers(small: nn.Module, dense: nn.Module, cut: CutSlices, example: Any, every_layer: bool = False) -> Consumers:
    """The layers of ``small`` that read fewer channels than in ``dense``.

    Args:
        small, dense, cut: the networks, and what has left between them.
        example: an input of both.
        every_layer: those that read as many as ever, too.

    Raises:
        TraceError, ModelError: as ``tracing.trace``.
    """
    traced = {layer.name: layer for layer in filter_layers(small, example)}
    shared = Counter(id(parameter) for module in small.modules() for parameter in module._parameters.values())
    norms = Counter(layer.norm.running_mean for layer in traced.values() if layer.norm is not None)
    modules, before = dict(small.named_modules()), dict(dense.named_modules())
    found: dict[str, Consumer] = {}
    left: dict[str, str] = {}
    for name, layer in traced.items():
        mine, theirs = modules.get(name), before.get(name)
        if mine is None or theirs is None:
            continue
        if not every_layer and _reads(mine) == _reads(theirs):
            continue
        kept = _kept(theirs, cut.removed.get(layer.weight, {}).get(0, ()))
        reason = _objection(mine, theirs, layer, kept, shared)
        if reason is not None:
            left[name] = reason
            continue
        constant, subtracted = mine.bias, False
        constant_name = None if constant is None else f"{name}.bias" if name else "bias"
        if constant is None and layer.norm is not None and norms[layer.norm.running_mean] == 1:
            constant_name, subtracted = layer.norm.running_mean, True
            constant = small.get_buffer(constant_name)
        assert constant is None or isinstance(constant, Tensor)
        found[name] = Consumer(name, mine, theirs, kept, layer.weight, constant_name, constant, subtracted)
    return Consumers(found, left)


def _reads(module: nn.Module) -> tuple[Any, ...]:
    """How many channels a layer reads: all in all, and each filter of it."""
    weight = getattr(module, "weight", None)
    each = weight.shape[1:2] if isinstance(weight, Tensor) else ()
    return (getattr(module, "in_channels", None), getattr(module, "in_features", None), *each)


def _kept(dense: nn.Module, removed: tuple[int, ...]) -> Tensor:
    weight = getattr(dense, "weight", None)
    filters = len(weight) if isinstance(weight, Tensor) and weight.dim() else 0
    device = weight.device if isinstance(weight, Tensor) else None
    mask = torch.ones(filters, dtype=torch.bool, device=device)
    mask[list(removed)] = False
    return mask.nonzero().flatten()


def _objection(
    mine: nn.Module, theirs: nn.Module, layer: FilterLayer, kept: Tensor, shared: Counter[int]
) -> str | None:
    """Why a layer is left alone."""
    kind = type(mine).__name__
    if type(mine) not in REFITTED or type(theirs) is not type(mine):
        return f"a {kind} is not refitted; only Linear, Conv1d, Conv2d and Conv3d themselves are"
    weight = mine.weight
    if not isinstance(weight, nn.Parameter) or hasattr(mine, "parametrizations"):
        return f"the weight of this {kind} is computed from others"
    if not weight.is_floating_point():
        return f"the weight of this {kind} is of whole or complex numbers"
    if len(layer.positions) > 1 or shared[id(weight)] > 1:
        return f"this {kind} runs more than once, or shares its weight"
    if len(weight) != len(kept):
        return f"this {kind} has not the filters that the plan leaves it"
    return None
