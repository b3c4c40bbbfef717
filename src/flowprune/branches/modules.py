"""What stands in a model where a residual branch has lost ends: ordinary modules, saved and trained like any other."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

PLACES = "places"
CONSTANT = "constant"


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


_PLACED: dict[type[nn.Module], type[Placed]] = {
    nn.BatchNorm1d: PlacedBatchNorm1d,
    nn.BatchNorm2d: PlacedBatchNorm2d,
    nn.BatchNorm3d: PlacedBatchNorm3d,
}


def placed_class(norm: type[nn.Module]) -> type[Placed]:
    """The class of norm that puts its channels at their places; for a class that is not torch's own it is made here, once."""
    if norm not in _PLACED:
        # A class made at run time cannot be found by its name: copies and pickles make it again from its origin.
        own = {"__reduce_ex__": _reduced, "__doc__": Placed.__doc__}
        _PLACED[norm] = type(f"Placed{norm.__name__}", (Placed, norm), own)
    return _PLACED[norm]


def _reduced(module: nn.Module, protocol: int) -> tuple[object, ...]:
    return _empty, (type(module).__mro__[2],), module.__dict__.copy()


def _empty(norm: type[nn.Module]) -> nn.Module:
    made = placed_class(norm)
    return made.__new__(made)


def can_be_placed(module: nn.Module) -> bool:
    """Whether a branch's last module is a batch norm, and puts nothing at places yet."""
    return isinstance(module, _BatchNorm) and not isinstance(module, Placed)


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
    norm.__class__ = placed_class(type(norm))
    norm.register_buffer(PLACES, torch.arange(width, device=like.device))
    norm.register_buffer(CONSTANT, like.detach().new_zeros([1, width, *[1] * (rank - 2)]))
