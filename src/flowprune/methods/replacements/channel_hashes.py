"""Channels told apart by which side of a few random planes they lie on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError

DENSITY = 3
"""One in so many entries of a plane is not zero (Achlioptas, Database-friendly random projections, 2003)."""
MOST_PLANES = 40
"""A code, with what else goes into it, is one int64."""


def sparse_planes(count: int, size: int, seed: int) -> Tensor:
    """Normals of random planes through the origin: +1 and -1 with a probability of 1/6 each, else 0.

    Args:
        count: of the planes, 1 to 40.
        size: of the vectors that they part.
        seed: of the random numbers.

    Returns:
        int8 ``[count, size]``.

    Raises:
        FlowpruneError: ``count`` is not such a number.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_PLANES:
        raise FlowpruneError(f"planes={count!r}: a hash is made by 1 to {MOST_PLANES} planes")
    drawn = torch.randint(0, 2 * DENSITY, (count, size), generator=torch.Generator().manual_seed(seed))
    return ((drawn == 0).to(torch.int8) - (drawn == 1).to(torch.int8)).contiguous()


def codes(vectors: Tensor, planes: Tensor, scale: bool = False) -> Tensor:
    """A number for each vector, which says on which side of every plane it lies once its mean is taken off.

    ``h = sum_l 2^l [v_l . (x - mean x) > 0]``. It does not see how large a vector is, nor its mean; with ``scale`` it also holds
    the root mean square, in steps of a factor of sqrt(2). Sums are made in float64, which is exact for numbers of float32 that
    are not further apart than some million times, so that equal vectors have equal codes.

    Args:
        vectors: ``[..., size]``.
        planes: ``[count, size]``, as ``sparse_planes`` makes them.
        scale: see above.

    Returns:
        int64 ``[...]``.
    """
    x = vectors.double()
    normals = planes.to(x)
    size = x.shape[-1]
    beside = torch.cat([normals, torch.ones_like(normals[:1])])
    products = x @ beside.mT
    above = size * products[..., :-1] > normals.sum(1) * products[..., -1:]
    found: Tensor = (above * torch.pow(2, torch.arange(len(normals), device=x.device))).sum(-1)
    if not scale:
        return found
    size_of = torch.floor(2 * torch.log2(x.square().mean(-1).sqrt().clamp(min=2.0**-60))).long() + 2**9
    sized: Tensor = found + size_of * 2 ** len(normals)
    return sized


def spent(planes: Tensor) -> int:
    """Additions that the code of one vector takes: its mean, and what each plane adds up."""
    return int(math.prod(planes.shape[1:])) + int(planes.count_nonzero())
