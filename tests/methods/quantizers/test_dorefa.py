"""Weights and activations of k bits: DoReFa-Net's equations, written out in float64, and their straight-through gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowprune.methods.quantizers._channelwise.dorefa import dorefa_activation, dorefa_weight

Array = NDArray[np.float64]
WEIGHT = torch.randn(6, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def as_published(weight: Array, bits: int) -> Array:
    """Sections 2.2 and 2.3."""
    if bits == 1:
        return np.where(weight >= 0, 1.0, -1.0) * np.abs(weight).mean()
    within = np.tanh(weight) / (2 * np.abs(np.tanh(weight)).max()) + 0.5
    return 2 * np.round((2**bits - 1) * within) / (2**bits - 1) - 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weights_are_as_published_over_the_layer_and_over_each_filter(bits: int) -> None:
    np.testing.assert_allclose(dorefa_weight(WEIGHT, bits).numpy(), as_published(WEIGHT.numpy(), bits), atol=1e-14)
    rows = [as_published(row, bits) for row in WEIGHT.numpy()]
    np.testing.assert_allclose(dorefa_weight(WEIGHT, bits, each_filter=True).numpy(), np.stack(rows), atol=1e-14)
    assert len(dorefa_weight(WEIGHT, bits).unique()) <= 2**bits
    zero = dorefa_weight(torch.zeros(2, 4), bits, each_filter=True)
    assert torch.isfinite(zero).all()


@pytest.mark.parametrize("bits", [1, 3])
def test_gradients_go_straight_through_the_rounding_and_stop_at_the_clip(bits: int) -> None:
    x = torch.linspace(-1.03, 2.03, 31, dtype=torch.float64, requires_grad=True)
    y = dorefa_activation(x, bits)
    levels = np.round((2**bits - 1) * np.clip(x.detach().numpy(), 0, 1)) / (2**bits - 1)
    np.testing.assert_allclose(y.detach().numpy(), levels, atol=1e-14)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope, ((x >= 0) & (x <= 1)).double())
    weight, plain = (WEIGHT.clone().requires_grad_() for _ in range(2))
    dorefa_weight(weight, bits).square().sum().backward()
    bounded = plain.tanh()  # the same without rounding, at the rounded values' own outer slope
    smooth = plain if bits == 1 else bounded / bounded.abs().max()
    smooth.backward(2 * dorefa_weight(WEIGHT, bits))
    torch.testing.assert_close(weight.grad, plain.grad)
