"""Filters that say a constant and nothing else, in front of the batch norms of any network: what a threshold removes, to be
compared with the dense model itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def with_constant_filters(
    model: nn.Module, share: float = 0.25, together: float = 0.5, without_weights: float = 0.3
) -> nn.Module:
    """Make ``share`` of the channels of every batch norm of at least four constant, drawn by torch; ``model`` is changed.

    gamma is exactly zero, beta of either sign and for some exactly zero; of a norm's channels at least one, and at most half, so
    that the network lives.

    Args:
        model: any model, its norms away from zero.
        share: of a norm's channels.
        together: share of the norms that take the same channels, so that whole streams hold constants.
        without_weights: share of the pairs of a layer and a norm in a row of which one more filter has neither weights nor bias.
            Of half of these the norm has seen the variance, which is zero; of the others it has not.
    """
    with torch.no_grad():
        everywhere = torch.rand(1 << 14) < share
        for module in model.modules():
            if isinstance(module, _NORMS) and module.affine and module.num_features >= 4:
                width = module.num_features
                dead = everywhere[:width] if torch.rand(()) < together else torch.rand(width) < share
                _make_constant(module, _some(dead.nonzero().flatten(), width))
            if isinstance(module, nn.Sequential):
                for layer, norm in zip(list(module)[:-1], list(module)[1:], strict=True):
                    if isinstance(layer, _LAYERS) and isinstance(norm, _NORMS) and torch.rand(()) < without_weights:
                        _empty_one_filter(layer, norm)
    return model


def without_weights(model: nn.Module, share: float, together: float = 0.9) -> int:
    """Make all weights of ``share`` of the filters of every convolution and linear layer zero and keep their biases; ``model`` is
    changed.

    Args:
        model: any model.
        share: of a layer's filters; at least one, and at most half. Layers of fewer than four stay.
        together: share of the layers that take the same filters, so that whole streams hold constants.

    Returns:
        How many filters there are without weights now.
    """
    with torch.no_grad():
        everywhere = torch.rand(1 << 14) < share
        changed: dict[int, int] = {}
        for module in model.modules():
            if not isinstance(module, _LAYERS) or id(module.weight) in changed:
                continue
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            rows = module.weight.movedim(1, 0) if transposed else module.weight
            width = len(rows)
            if width >= 4 and not (transposed and module.groups > 1):  # whose filters are not along one dimension
                dead = everywhere[:width] if torch.rand(()) < together else torch.rand(width) < share
                chosen = _some(dead.nonzero().flatten(), width)
                rows[chosen] = 0.0
                changed[id(module.weight)] = len(chosen)
    return sum(changed.values())


def _some(dead: Tensor, width: int) -> Tensor:
    """At least one index, and at most half of all."""
    if not len(dead):
        return torch.randint(width, (1,))
    return dead[torch.randperm(len(dead))[: width // 2]]


def _make_constant(norm: nn.Module, dead: Tensor) -> None:
    sign = torch.where(torch.rand(len(dead)) < 0.4, -1.0, 1.0)
    beta = (torch.rand(len(dead)) * 0.7 + 0.1) * sign * (torch.rand(len(dead)) > 0.2)
    norm.weight[dead] = 0.0
    norm.bias[dead] = beta.to(norm.bias)


def _empty_one_filter(layer: nn.Module, norm: nn.Module) -> None:
    """One filter of a layer in a row with its norm: nothing but zeros."""
    if norm.running_mean is None or norm.num_features < 8:
        return
    filters = int(torch.randint(norm.num_features, ()))
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if transposed and layer.groups > 1:
        return  # its filters are not along one dimension
    layer.weight.select(1 if transposed else 0, filters).zero_()
    if layer.bias is not None:
        layer.bias[filters] = 0.0
    if torch.rand(()) < 0.5:
        norm.running_var[filters] = 0.0
        norm.running_mean[filters] *= 1e-3  # it has all but seen that there is nothing
