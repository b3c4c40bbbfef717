"""Weights on a grid of their filter's own: symmetric, as fine as the filter's number of bits allows.

Of filter f with p bits, as in the code of arXiv 2407.01054::

    m_f = max |W_f|,   s_f = 2 m_f / (2^p - 1),   W_f <- s_f min(round(W_f / s_f), 2^(p-1) - 1)

halves rounded to the even number; 0 bits make zeros, and so does a filter of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError

MOST_BITS = 8


def scales(weight: Tensor, bits: Tensor | int) -> Tensor:
    """s ``[filters, 1, ...]``, which multiplies the weight; 1 divided by the number of steps where all weights are zero.

    Args:
        weight: ``[filters, ...]``.
        bits: one number, or one a filter ``[filters]``; at least 1 wherever a scale is to mean something.
    """
    largest = weight.abs().flatten(1).amax(1)
    steps = torch.as_tensor(bits, device=weight.device).to(weight.dtype).exp2() - 1
    width = torch.where(largest > 0, 2 * largest, torch.ones_like(largest))
    return (width / steps.clamp(min=1)).view(-1, *[1] * (weight.ndim - 1))


def on_grid(weight: Tensor, bits: Tensor | int) -> Tensor:
    """The weight with every filter on its grid, without a gradient.

    Args:
        weight: ``[filters, ...]``, of any floating-point type.
        bits: from 0 to 8, one number or one a filter ``[filters]``.
    """
    if isinstance(bits, int) and bits == 0:
        return torch.zeros_like(weight)
    with torch.no_grad():
        size = scales(weight, bits)
        widths = torch.as_tensor(bits, device=weight.device).to(weight.dtype).expand(len(weight)).view(size.shape)
        levels = torch.minimum(torch.round(weight / size), (widths - 1).exp2() - 1)
        # plus zero: no minus zero, which a whole number could not tell from zero
        return torch.where(widths > 0, levels * size, torch.zeros_like(weight)) + 0.0


def mixed(weight: Tensor, shares: Tensor, precisions: Iterable[int]) -> Tensor:
    """``sum_p share[p, f] Q_p(W)[f]``, with the gradients of the shares and, straight through the rounding, of the weight.

    Args:
        weight: ``[filters, ...]``.
        shares: ``[precisions, filters]``, which add up to 1 over the precisions.
        precisions: the numbers of bits, in that order.
    """
    total = torch.zeros_like(weight)
    for share, bits in zip(shares, precisions, strict=True):
        if bits:
            quantized = weight + (on_grid(weight, bits) - weight).detach()
            total = total + share.view(-1, *[1] * (weight.ndim - 1)).to(weight.dtype) * quantized
    return total


def checked_bits(bits: Any, what: str, least: int = 0) -> int:
    """A number of bits.

    Raises:
        FlowpruneError: it is no whole number from ``least`` to 8, or it is 1, which leaves no grid with a zero in it.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= MOST_BITS or bits == 1:
        raise FlowpruneError(
            f"{what}={bits!r} is no number of bits; give {'0 or ' if not least else ''}2 to {MOST_BITS}"
        )
    return bits
