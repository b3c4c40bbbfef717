"""Dynamic structure pruning's penalty on one layer: filters in groups by chance, and its derivatives.

Park, Kim, Kim, Kim and Choi, Dynamic Structure Pruning for Compressing CNNs, AAAI 2023, arXiv 2303.09736; compared with the
authors' code. With P ``[G, F]`` the probability of every filter for every group, o a product by filters, W[:, c] all kernels of
channel c::

    R(W, P) = sum_g s_g sum_c |P_g o W[:, c]|,    s_g = (sum_i sqrt(P_gi))^2
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mixed = Literal["exact", "published"]

SMALLEST = 1e-8
"""What the authors add to two divisors."""


def probabilities(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """P ``[G, F]``: a Gumbel softmax over the groups of logits ``[G, F]`` over the temperature, with noise of that shape."""
    return torch.softmax(logits / temperature + noise, dim=0)


def hard_groups(logits: Tensor) -> Tensor:
    """P of the likeliest group of every filter alone, zeros and ones."""
    return torch.zeros_like(logits).scatter_(0, logits.argmax(0, keepdim=True), 1.0)


def layer_scale(numel: int, kernel: int, groups: int, filters: int) -> float:
    """What makes layers alike: ``sqrt(n / (16 32 32)) K (G / F)^1.5`` for inputs of n numbers an image and kernels of K rows."""
    return float((numel / 16384) ** 0.5 * kernel * (groups / filters) ** 1.5)


def penalty_by_group(weight: Tensor, probability: Tensor) -> Tensor:
    """R of every group, ``[G]``."""
    return _sizes(probability) * _lengths(weight, probability).sum(1)


def weight_gradient(weight: Tensor, probability: Tensor) -> Tensor:
    """dR/dW, in the shape of W: for filter i ``sum_g s_g P_gi^2 W_ic / |P_g o W[:, c]|``."""
    factors = _sizes(probability)[:, None] / (_lengths(weight, probability) + SMALLEST)
    per_kernel = torch.einsum("gi,gc->ic", probability.square(), factors)
    return weight * per_kernel.view(*per_kernel.shape, *[1] * (weight.ndim - 2))


def probability_gradient(weight: Tensor, probability: Tensor) -> Tensor:
    """dR/dP, ``[G, F]``."""
    lengths = _lengths(weight, probability)
    squares = weight.flatten(2).square().sum(2)
    inside = probability * torch.einsum("ic,gc->gi", squares, 1 / (lengths + SMALLEST))
    return _sizes(probability)[:, None] * inside + lengths.sum(1)[:, None] * _size_gradient(probability)


def mixed_gradient(weight: Tensor, probability: Tensor, displacement: Tensor, how: Mixed = "exact") -> Tensor:
    """d/dP of the inner product of dR/dW with a displacement V of W, ``[G, F]``.

    "exact" is that derivative. "published" is what the authors' code adds: of every filter only its own inner products, and a
    product of two sums where a sum of products belongs; it points elsewhere (the fixture's cosine is 0.68).
    """
    if how == "exact":
        with torch.enable_grad():
            moving = probability.detach().requires_grad_()
            product = (weight_gradient(weight.detach(), moving) * displacement).sum()
            (found,) = torch.autograd.grad(product, moving)
        return found.detach()
    flat, moved = weight.flatten(2), displacement.flatten(2)
    lengths, sizes = _lengths(weight, probability), _sizes(probability)[:, None]
    own = torch.einsum("gi,ick,gc->gick", probability, flat, 1 / (lengths + SMALLEST))  # n
    slopes = probability[:, :, None, None] * own  # dl
    along = (slopes * moved).sum(3)
    product = (along / (lengths[:, None] + SMALLEST)).sum(2)
    inside = 2 * (own * moved).sum((2, 3)) - (flat * own).sum((2, 3)) * product
    return _size_gradient(probability) * along.sum(2) + sizes * inside


def _lengths(weight: Tensor, probability: Tensor) -> Tensor:
    """``|P_g o W[:, c]|``, ``[G, C]``."""
    squares = weight.flatten(2).square().sum(2)
    return (probability.square() @ squares).clamp_min(1e-30).sqrt()


def _sizes(probability: Tensor) -> Tensor:
    """s_g, ``[G]``."""
    return probability.clamp_min(1e-30).sqrt().sum(1).square()


def _size_gradient(probability: Tensor) -> Tensor:
    """ds_g/dP_gi, ``[G, F]``: ``sqrt(s_g / P_gi)``, 0 where P is 0."""
    roots = probability.sqrt()
    total = roots.sum(1, keepdim=True)
    return roots * total.square() / (probability * total + SMALLEST)
