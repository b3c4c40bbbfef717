"""A convolution whose kernels are sums over a basis of its own, as a module: its weight are the coefficients, which masks take."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements.filter_basis import FilterBasis
from flowprune.methods.replacements.hooks import objection_to_hooks
from flowprune.methods.replacements.registry import REGISTRY


class _OfBasis:
    """What convolutions of every number of dimensions share: ``weight`` holds coefficients, ``kernels`` makes kernels of them."""

    kernels: FilterBasis
    _positions: int | None = None

    def forward(self: Any, x: Tensor) -> Tensor:
        """What a plain convolution with these kernels gives."""
        convolved: Tensor = self._conv_forward(x, self.kernels(self.weight), self.bias)
        self._positions = math.prod(convolved.shape[2:])
        return convolved

    def effective_macs(self: Any) -> int:
        """Multiply-accumulates per image on inputs like those of the last call, as the paper counts them: every channel that
        is read is convolved with the basis, and summed by the coefficients that are not zero; no more than with the kernels.

        Raises:
            FlowpruneError: it was not called yet.
        """
        if self._positions is None:
            raise FlowpruneError("a convolution of a basis knows its MACs after it has run once; call the model first")
        channels, positions = self.in_channels, self.kernels.basis.numel()
        return int(self._positions * min(self.weight.numel(), channels * positions + int(self.weight.count_nonzero())))


class BasisConv1d(_OfBasis, nn.Conv1d):
    """An ``nn.Conv1d`` of coefficients and a basis."""


class BasisConv2d(_OfBasis, nn.Conv2d):
    """An ``nn.Conv2d`` of coefficients and a basis."""


class BasisConv3d(_OfBasis, nn.Conv3d):
    """An ``nn.Conv3d`` of coefficients and a basis."""


KINDS: dict[type[nn.Module], type[Any]] = {nn.Conv1d: BasisConv1d, nn.Conv2d: BasisConv2d, nn.Conv3d: BasisConv3d}


@REGISTRY.register("filter_basis")
class BasisConvolution:
    """A convolution with a basis of its own for its kernels, with the same function bit for bit at the start.

    Wimmer, Mehnert & Condurache, Interspace Pruning, CVPR 2022, arXiv 2203.07808; from the published abstract, as there is no
    code. ``h[f, c] = sum_n lambda[f, c, n] g[n]``: the module's ``weight`` are the coefficients lambda, so every mask, score and
    codec of weights works on them; the basis g starts as single taps and is trained along. For bases that several layers share
    see ``with_filter_bases``.

    Convolutions of any number of dimensions, grouped and depthwise ones, too, with kernels of more than one position; 1x1 and
    linear layers, and so transformers but for their patches, stay plain.

    Example:
        >>> replacement = BasisConvolution()
        >>> sparse = replacement.replace(nn.Conv2d(16, 32, 3, padding=1))
        >>> plain = replacement.restore(sparse)
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        return _objection(module) is None

    def replace(self, module: nn.Module) -> nn.Module:
        """A convolution of coefficients and a basis with the function of ``module``, which is left as it is.

        Raises:
            ModelError: the module is none of those.
        """
        objection = _objection(module)
        if objection is not None:
            raise ModelError(objection)
        new: nn.Module = _like(module, KINDS[type(module)])
        new.kernels = FilterBasis(new.weight.detach())  # type: ignore[operator]
        return new

    def restore(self, module: nn.Module) -> nn.Module | None:
        """The plain convolution; its kernels are dense where the coefficients were sparse. None for any other module."""
        plain = next((kind for kind, own in KINDS.items() if type(module) is own), None)
        if plain is None:
            return None
        new: nn.Module = _like(module, plain)
        with torch.no_grad():
            new.weight.copy_(module.kernels(module.weight))  # type: ignore[operator]
        return new


def _like(module: Any, kind: type[Any]) -> Any:
    """A convolution of another kind with the settings and the values of this one."""
    new: Any = nn.utils.skip_init(  # so that no random number is drawn
        kind,
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        device=module.weight.device,
        dtype=module.weight.dtype,
    )
    with torch.no_grad():
        for name in ("weight", "bias"):
            mine = getattr(module, name)
            if mine is not None:
                getattr(new, name).copy_(mine)
                getattr(new, name).requires_grad_(mine.requires_grad)
    return new.train(module.training)


def _objection(module: nn.Module) -> str | None:
    """Why a module gets no basis."""
    kind = type(module).__name__
    if type(module) not in KINDS:
        return f"a {kind} has no kernels to make a basis of; only Conv1d, Conv2d and Conv3d themselves have"
    hooked = objection_to_hooks(module)
    if hooked is not None:
        return hooked
    if math.prod(module.kernel_size) == 1:  # type: ignore[arg-type]
        return f"this {kind} is 1x1, which has no kernel to make a basis of"
    return None
