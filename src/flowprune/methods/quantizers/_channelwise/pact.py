"""Activations on a grid up to a clip that is learned: PACT, and its form for tensors of either sign.

Choi et al., PACT, arXiv 1805.06085, as in the code of arXiv 2407.01054. With p bits and the clip c::

    S = (2^p - 1) / (c + 0.001),   y = floor(S clamp(x, 0, c)) / S;   dL/dx = g where 0 < x < c,   dL/dc = sum of g where x >= c

Of tensors that may be negative (an image, the sum at the end of a linear block), ours::

    S = (2^(p-1) - 1) / c,   y = round(S clamp(x, -c, c)) / S;   dL/dx = g where |x| < c,   dL/dc = sum of g sign(x) where |x| >= c
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BESIDE_CLIP = 1e-3
"""What the authors add to the clip before they divide by it."""
SMALLEST_CLIP = 1e-2
"""A clip counts as no less: below it all would be zero and nothing could bring it back."""
HALF = 0.5 - 2.0**-16
"""ONNX rounds where PACT floors: ``floor(v) = round(v - 1/2)`` but for whole v, which the last bit decides."""


def step_of(clip: Tensor, bits: int, signed: bool = False) -> Tensor:
    """1 / S, the distance of two levels, ``[1]``."""
    held = clip.clamp(min=SMALLEST_CLIP)
    steps: int = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    return held / steps if signed else (held + BESIDE_CLIP) / steps


def clipped(x: Tensor, clip: Tensor, bits: int, signed: bool = False) -> Tensor:
    """The activations on their grid, with the gradients above.

    Args:
        x: of any shape.
        clip: c, one number ``[1]``.
        bits: p, 2 to 8.
        signed: whether they may be negative.
    """
    found: Tensor = _Clipped.apply(x, clip, bits, signed)
    return found


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, clip: Tensor, bits: int, signed: bool) -> Tensor:
        context.save_for_backward(x, clip)
        context.signed = signed
        bound = clip.clamp(min=SMALLEST_CLIP).to(x.dtype)
        step = step_of(clip, bits, signed).to(x.dtype)
        if signed:
            return torch.round(torch.minimum(torch.maximum(x, -bound), bound) / step) * step
        return torch.floor(torch.minimum(x.clamp(min=0), bound) / step) * step

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        x, clip = context.saved_tensors
        bound = clip.clamp(min=SMALLEST_CLIP).to(x.dtype)
        if context.signed:
            inside, outside = x.abs() < bound, torch.where(x.abs() >= bound, x.sign(), torch.zeros_like(x))
        else:
            inside, outside = (x > 0) & (x < bound), (x >= bound).to(x.dtype)
        return gradient * inside, (gradient * outside).sum().to(clip.dtype).reshape(clip.shape), None, None
