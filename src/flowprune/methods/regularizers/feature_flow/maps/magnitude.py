"""|.|: the size of a difference of features. The strengths k1 and k2 mean nothing without the norm and the reduction."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "channel", "sum"]

_SMALLEST_NORM = 1e-8


def accumulated(feature: Tensor) -> Tensor:
    """The feature in the precision it is summed in: half precisions become float32."""
    return feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature


def magnitude(difference: Tensor, norm: Literal[1, 2], reduction: Reduction) -> Tensor:
    """One number for the size of a difference [N, C, positions ...].

    With ``norm=1`` every element counts with its absolute value. With ``norm=2`` every element of an image's channel counts
    with the root mean square over that channel's positions (not squared: a square does not sparsify); its subgradient at 0 is
    0.

    ``"mean"`` averages over images, channels and positions; ``"channel"`` averages over images and positions and sums over
    channels; ``"sum"`` averages over images and sums over channels and positions.
    """
    images, channels = difference.shape[:2]
    positions = math.prod(difference.shape[2:])
    if norm == 1 or difference.dim() == 2:
        total = difference.abs().sum()
    else:
        spread = torch.linalg.vector_norm(difference, dim=tuple(range(2, difference.dim())))
        total = spread.sum() * math.sqrt(positions)
    if reduction == "mean":
        return total / (images * channels * positions)
    if reduction == "channel":
        return total / (images * positions)
    return total / images


def angle(before: Tensor, after: Tensor) -> Tensor:
    """The mean over images of the angle, in radians, between two successive differences [N, C, ...] of equal shape.

    ``2 atan2(|u - v|, |u + v|)`` with u, v the differences of one image divided by their norms; 0 where either norm is below 1e-8.
    """
    before, after = before.flatten(1), after.flatten(1)
    lengths = [torch.linalg.vector_norm(difference, dim=1, keepdim=True) for difference in (before, after)]
    defined = (lengths[0] >= _SMALLEST_NORM) & (lengths[1] >= _SMALLEST_NORM)
    # Both arms of a where() are differentiated, so the undefined images are replaced before anything divides by zero.
    u, v = (
        difference / torch.where(defined, length, 1.0)
        for difference, length in zip((before, after), lengths, strict=True)
    )
    apart = torch.linalg.vector_norm(u - v, dim=1)
    together = torch.linalg.vector_norm(u + v, dim=1)
    defined = defined.squeeze(1)
    return 2 * torch.atan2(torch.where(defined, apart, 0.0), torch.where(defined, together, 1.0)).mean()
