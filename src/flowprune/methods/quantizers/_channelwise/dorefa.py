"""Weights and activations of k bits as DoReFa-Net has them.

Zhou et al., DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients, arXiv 1606.06160, sections
2.2 to 2.4. On [0, 1], and for gradients as if nothing were rounded::

    quantize_k(r) = round((2^k - 1) r) / (2^k - 1),   d quantize_k / dr = 1
    weights:      2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1;   of one bit  sign(w) mean |w|, whose gradient is 1
    activations:  quantize_k(clip(x, 0, 1))

A weight has 2^k levels on both sides of zero and none at zero, and lies within [-1, 1] (but for one bit), whatever its size was: a
scale or a batch norm has to follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError

MOST_BITS = 8


def quantized(x: Tensor, bits: int) -> Tensor:
    """quantize_k: the nearest of 2^bits levels from 0 to 1, halves to the even one, straight through for gradients.

    Args:
        x: of any shape, within [0, 1].
        bits: k, 1 to 8.
    """
    steps: int = 2**bits - 1
    return _straight_through(torch.round(x * steps) / steps, x)


def _straight_through(value: Tensor, behind: Tensor) -> Tensor:
    """The value to the bit, with the gradient of what is behind it."""
    return value.detach() + (behind - behind.detach())


def dorefa_weight(weight: Tensor, bits: int, each_filter: bool = False) -> Tensor:
    """A weight of so many bits.

    Args:
        weight: ``[filters, ...]``.
        bits: k, 1 to 8.
        each_filter: whether maximum and mean are those of each filter; of the whole weight, as in the paper, if not.

    Example:
        >>> dorefa_weight(torch.tensor([[0.1, -0.1, 0.02]]), 2)
        tensor([[ 1.0000, -1.0000,  0.3333]])
    """
    over = tuple(range(1 if each_filter else 0, weight.dim()))
    if bits == 1:
        size = weight.abs().mean(over, keepdim=True)
        return _straight_through(torch.where(weight >= 0, size, -size), weight)
    bounded = weight.tanh()
    largest = bounded.abs().amax(over, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return 2 * quantized(bounded / (2 * largest) + 0.5, bits) - 1


def dorefa_activation(x: Tensor, bits: int) -> Tensor:
    """Activations of so many bits, clipped to [0, 1].

    Args:
        x: of any shape.
        bits: k, 1 to 8.

    Example:
        >>> dorefa_activation(torch.tensor([-0.5, 0.3, 0.6, 2.0]), 2)
        tensor([0.0000, 0.3333, 0.6667, 1.0000])
    """
    return quantized(x.clamp(0, 1), bits)


def checked_dorefa_bits(bits: Any) -> int:
    """A number of bits.

    Raises:
        FlowpruneError: it is no whole number from 1 to 8.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS:
        raise FlowpruneError(f"bits={bits!r} is no number of bits; give 1 to {MOST_BITS}")
    return bits
