"""The convolutions whose filters are put into groups, what they cost, and groups by likeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.methods.regularizers.learned_groups import layer_scale


@dataclass(frozen=True)
class GroupedLayer:
    """A convolution.

    Attributes:
        name: its dotted path.
        weight: ``[F, C, K, K]``.
        scale: what makes its penalty like other layers'.
        macs: multiply-accumulates of one kernel on one image.
    """

    name: str
    weight: Tensor
    scale: float
    macs: int


def grouped_layers(model: nn.Module, inputs: Any, groups: int) -> tuple[list[GroupedLayer], dict[str, str]]:
    """The convolutions of one group behind the first, but for shortcuts; and why the other layers are left out, by name.

    Args:
        model: it runs once, in evaluation mode without gradients, and is left as it was.
        inputs: example inputs, a tensor, or a tuple or dictionary of arguments.
        groups: of each layer.
    """
    sizes: dict[str, tuple[int, int]] = {}
    order: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):

            def note(own: nn.Module, given: tuple[Any, ...], result: Tensor, name: str = name) -> None:
                order.append(name)
                sizes[name] = given[0][0].numel(), result[0, 0].numel()

            handles.append(module.register_forward_hook(note))
    try:
        with evaluating(model), torch.no_grad():
            if isinstance(inputs, dict):
                model(**inputs)
            else:
                model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    found: list[GroupedLayer] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        reason = None
        if isinstance(module, nn.Linear):
            reason = "only convolutions have kernels that groups of filters could share"
        elif isinstance(module, nn.Conv2d):
            reason = _objection(module, name, order)
        if reason is not None:
            left[name] = reason
        elif isinstance(module, nn.Conv2d):
            taps = module.weight[0, 0].numel()
            scale = layer_scale(sizes[name][0], module.weight.shape[2], groups, module.out_channels)
            found.append(GroupedLayer(name, module.weight, scale, taps * sizes[name][1]))
    return found, left


def _objection(module: nn.Conv2d, name: str, order: Sequence[str]) -> str | None:
    if name not in order:
        return "the example inputs do not reach it"
    if name == order[0]:
        return "the first convolution stays whole"
    if module.groups != 1:
        return "a grouped or depthwise convolution reads a part of the channels already"
    if all(size == 1 for size in module.kernel_size) and any(word in name for word in ("shortcut", "downsample")):
        return "a shortcut stays whole"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    return None


def kept_macs(layers: Sequence[GroupedLayer], kernels: Sequence[Tensor]) -> float:
    """The share of the layers' MACs that is left, for masks of their kernels ``[F, C]``."""
    left = sum(one.macs * int(own.sum()) for one, own in zip(layers, kernels, strict=True))
    return left / sum(one.macs * own.numel() for one, own in zip(layers, kernels, strict=True))


def means_of_profiles(weight: Tensor, groups: int) -> Tensor:
    """int64 ``[F]``: filters by k-means of the lengths of their kernels, each filter's over its own length.

    Args:
        weight: ``[F, C, *kernel]``.
        groups: at most so many; fewer where there are fewer different filters.
    """
    from sklearn.cluster import KMeans  # of the extra flowprune[run]; the other regularizers do without

    lengths = weight.detach().flatten(2).norm(dim=2).double().cpu()
    profiles = (lengths / lengths.norm(dim=1, keepdim=True).clamp_min(1e-12)).numpy()
    different = len({row.tobytes() for row in profiles})
    fitted = KMeans(min(groups, different), n_init=4, random_state=0).fit(profiles)
    return torch.as_tensor(fitted.labels_, dtype=torch.int64)
