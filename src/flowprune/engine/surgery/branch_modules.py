"""What stands in a model where a residual branch has lost ends: ordinary modules, saved and trained like any other."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

PLACES = "places"
CONSTANT = "constant"
READS = "reads"


def put(x: Tensor, places: Tensor, constant: Tensor) -> Tensor:
    """The stream's width from the live channels of a branch.

    Args:
        x: [N, live, ...].
        places: [live], int64: the stream's channel that each of them belongs to.
        constant: [1, C, 1, ...]: what the other channels say.

    Returns:
        [N, C, ...].
    """
    stream = constant.to(x.dtype).expand([x.shape[0], -1, *x.shape[2:]])
    return stream.index_copy(1, places, x)


class Placed(nn.Module):
    """Mixed into a branch's last norm: over its live channels, which it then puts at their places in the stream."""

    places: Tensor
    constant: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[N, live, ...] -> [N, C, ...]."""
        return put(super().forward(x), self.places, self.constant)


class PlacedBatchNorm1d(Placed, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` of a branch's live channels, put at their places in the stream."""


class PlacedBatchNorm2d(Placed, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` of a branch's live channels, put at their places in the stream."""


class PlacedBatchNorm3d(Placed, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` of a branch's live channels, put at their places in the stream."""


class Reading(nn.Module):
    """Mixed into a branch's first convolution: it reads only those of the stream's channels that it needs."""

    reads: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> what the convolution makes of the channels ``reads``."""
        result: Tensor = super().forward(x.index_select(1, self.reads))
        return result


class ReadingConv1d(Reading, nn.Conv1d):
    """``nn.Conv1d`` over some of the stream's channels."""


class ReadingConv2d(Reading, nn.Conv2d):
    """``nn.Conv2d`` over some of the stream's channels."""


class ReadingConv3d(Reading, nn.Conv3d):
    """``nn.Conv3d`` over some of the stream's channels."""


_KNOWN = (PlacedBatchNorm1d, PlacedBatchNorm2d, PlacedBatchNorm3d, ReadingConv1d, ReadingConv2d, ReadingConv3d)
_VARIANTS: dict[tuple[type, ...], type[nn.Module]] = {kind.__bases__: kind for kind in _KNOWN}


def variant(mixed_in: type[nn.Module], origin: type[nn.Module]) -> type[nn.Module]:
    """``origin`` with ``mixed_in``; for a class that is not torch's own it is made here, once."""
    if (mixed_in, origin) not in _VARIANTS:
        # A class made at run time cannot be found by its name: copies and pickles make it again from its origin.
        own = {"__reduce_ex__": _reduced, "__doc__": mixed_in.__doc__}
        _VARIANTS[mixed_in, origin] = type(f"{mixed_in.__name__}{origin.__name__}", (mixed_in, origin), own)
    return _VARIANTS[mixed_in, origin]


def _reduced(module: nn.Module, protocol: int) -> tuple[object, ...]:
    return _empty, type(module).__mro__[1:3], module.__dict__.copy()


def _empty(mixed_in: type[nn.Module], origin: type[nn.Module]) -> nn.Module:
    made = variant(mixed_in, origin)
    return made.__new__(made)


def can_be_placed(module: nn.Module) -> bool:
    """Whether a branch's last module is a batch norm, and puts nothing at places yet."""
    return isinstance(module, _BatchNorm) and not isinstance(module, Placed)


def can_read(module: nn.Module) -> bool:
    """Whether a branch's first module is an ungrouped convolution that reads everything yet."""
    ungrouped = isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and module.groups == 1
    return ungrouped and not isinstance(module, Reading)


class AddedConstant(nn.Module):
    """What is left of a residual block without a live end: act(x + constant)."""

    constant: Tensor

    def __init__(self, constant: Tensor, activation: str) -> None:
        super().__init__()
        self.register_buffer(CONSTANT, constant)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C, ...]."""
        return _activated(x + self.constant, self.activation)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"activation={self.activation!r}"


class ConstantEnd(nn.Module):
    """The end of a branch without a live channel: its constants, at every position of what comes in."""

    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer(CONSTANT, constant)

    def forward(self, x: Tensor) -> Tensor:
        """[N, any, ...] -> [N, C, ...]; memory of its own, because code may add to it in place."""
        return self.constant.to(x.dtype).expand([x.shape[0], -1, *x.shape[2:]]).clone()


class PositionsOnly(nn.Module):
    """In the place of a convolution that nobody needs: one channel of zeros, at the positions the convolution would give."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, any, H, ...] -> [N, 1, ceil(H / stride), ...]."""
        sizes = [-(-size // step) for size, step in zip(x.shape[2:], self.stride, strict=True)]
        return x.new_zeros([x.shape[0], 1, *sizes])

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"stride={self.stride}"


ACTIVATIONS = ("", "relu", "relu6")
"""What may stand behind a residual addition for a block to be replaced as a whole."""


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return functional.relu(x)
    return functional.relu6(x) if activation == "relu6" else x


def placed(norm: nn.Module, rank: int) -> None:
    """Turn a batch norm into the one that puts its channels at their places, in place; all of them live, so nothing changes.

    Args:
        norm: one that ``can_be_placed``.
        rank: number of dimensions of its output.
    """
    batch_norm = cast(_BatchNorm, norm)
    like = batch_norm.weight if batch_norm.weight is not None else batch_norm.running_mean
    assert like is not None
    width = like.shape[0]
    norm.__class__ = variant(Placed, type(norm))
    norm.register_buffer(PLACES, torch.arange(width, device=like.device))
    norm.register_buffer(CONSTANT, like.detach().new_zeros([1, width, *[1] * (rank - 2)]))


def reading(convolution: nn.Module) -> None:
    """Turn a convolution that ``can_read`` into the one that chooses its channels, in place; all of them, so nothing changes."""
    like = cast(_ConvNd, convolution).weight
    convolution.__class__ = variant(Reading, type(convolution))
    convolution.register_buffer(READS, torch.arange(like.shape[1], device=like.device))
