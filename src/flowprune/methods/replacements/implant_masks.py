"""Implants as masks: of a filter that becomes 1x1 all is zero for good but its middle tap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def middle_taps(model: nn.Module, implants: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The masks of the weights of convolutions with implants, as an ``Outcome`` has them.

    Args:
        model: which has them.
        implants: dotted path of a convolution -> the numbers of its filters that become 1x1.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    masks = {}
    for path, filters in implants.items():
        weight = modules[path].get_parameter("weight")
        mask = torch.ones(weight.shape, dtype=torch.bool)
        mask[torch.tensor(filters)] = _middle(weight.shape)
        masks[f"{path}.weight" if path else "weight"] = mask
    return masks


def implants_in(masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Dotted path of a convolution -> the filters of which only the middle tap is left; the reverse of ``middle_taps``.

    A mask of which no filter is such, or every one, has no implants.
    """
    found: dict[str, list[int]] = {}
    for name, mask in masks.items():
        if mask.dim() == 4 and name.rpartition(".")[2] == "weight":
            small = (mask.cpu() == _middle(mask.shape)).flatten(1).all(1)
            if bool(small.any()) and not bool(small.all()):
                found[name.rpartition(".")[0]] = small.nonzero().flatten().tolist()
    return found


def _middle(shape: Sequence[int]) -> Tensor:
    """True in the middle of a filter of ``[filters, channels, height, width]``."""
    one = torch.zeros(tuple(shape[1:]), dtype=torch.bool)
    one[:, shape[2] // 2, shape[3] // 2] = True
    return one
