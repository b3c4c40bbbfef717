"""Filters that say a constant and nothing else, in front of the batch norms of any network: what a threshold removes, to be
compared with the dense model itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def with_constant_filters(model: nn.Module, share: float = 0.25, at_least: int = 1) -> nn.Module:
    """Make ``share`` of the channels of every batch norm of at least four constant, drawn by torch; ``model`` is changed.

    gamma is exactly zero, beta of either sign and for some exactly zero; at most half of a norm's channels, so that the network
    lives. Often they are the same channels in every norm, so that whole streams hold constants. Some more filters in front of a
    norm have no weights and no bias: of half of these the norm has seen the variance, which is zero, of the others it has not.
    """
    with torch.no_grad():
        everywhere = torch.rand(1 << 14) < share
        for module in model.modules():
            if isinstance(module, _NORMS) and module.affine and module.num_features >= 4:
                width = module.num_features
                dead = everywhere[:width] if torch.rand(()) < 0.5 else torch.rand(width) < share
                _make_constant(module, _between(dead.nonzero().flatten(), width, at_least))
            if isinstance(module, nn.Sequential):
                for layer, norm in zip(list(module)[:-1], list(module)[1:], strict=True):
                    if isinstance(layer, _LAYERS) and isinstance(norm, _NORMS) and torch.rand(()) < 0.3:
                        _without_weights(layer, norm)
    return model


def _between(dead: Tensor, width: int, at_least: int) -> Tensor:
    """At least so many indices, and at most half of all."""
    if len(dead) < at_least:
        dead = torch.randperm(width)[:at_least]
    return dead[torch.randperm(len(dead))[: width // 2]]


def _make_constant(norm: nn.Module, dead: Tensor) -> None:
    sign = torch.where(torch.rand(len(dead)) < 0.4, -1.0, 1.0)
    beta = (torch.rand(len(dead)) * 0.7 + 0.1) * sign * (torch.rand(len(dead)) > 0.2)
    norm.weight[dead] = 0.0
    norm.bias[dead] = beta.to(norm.bias)


def _without_weights(layer: nn.Module, norm: nn.Module) -> None:
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
