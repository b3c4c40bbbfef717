"""Tensors that look like constants in one pass and are others in the next: nothing is folded behind them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowprune.pruning import plan, prune


class Scaled(nn.Module):
    """A convolution with constant filters, scaled by something, read by another convolution."""

    def __init__(self, scale: Callable[[Any, Tensor], Tensor | float]) -> None:
        super().__init__()
        self.made = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.read, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)
        self.scale = scale
        self.steps = 1
        self.last = torch.ones(1)
        self.kept = torch.tensor([0.5])
        self.register_buffer("mean", torch.ones(1))
        with torch.no_grad():
            self.made[1].weight[:6] = 0
            self.made[1].bias[:6] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.read(self.made(x) * self.scale(self, x))))


def a_counter(m: Scaled, x: Tensor) -> float:
    m.steps += 1
    return float(m.steps)


def what_it_saw_last(m: Scaled, x: Tensor) -> Tensor:
    held, m.last = m.last, x.mean().reshape(1).abs()
    return held


def a_buffer_put_anew(m: Scaled, x: Tensor) -> Tensor:
    held = m.mean
    m.mean = 0.5 * m.mean + x.mean().abs()
    return held


def a_buffer_written_to(m: Scaled, x: Tensor) -> Tensor:
    m.mean.mul_(0.5).add_(x.mean().abs())
    return m.mean


def written_through_a_view(m: Scaled, x: Tensor) -> Tensor:
    scale = torch.ones(1, 16, 1, 1)
    scale.view(-1)[:4].copy_(x.mean().abs().expand(4))
    return scale


CHANGING: dict[str, Callable[[Any, Tensor], Tensor | float]] = {
    "a counter": a_counter,
    "what it saw last": what_it_saw_last,
    "a buffer put anew": a_buffer_put_anew,
    "a buffer written to": a_buffer_written_to,
    "a number of Python's": lambda m, x: random.random(),
    "a random tensor": lambda m, x: torch.rand(1),
    "a number read off the input": lambda m, x: float(x.max()),
    "a size that the input decides": lambda m, x: float((x > 0).nonzero().shape[0]),
    "the input by numpy": lambda m, x: torch.from_numpy(x.detach().numpy().max(keepdims=True).reshape(1)),
    "the input in a list": lambda m, x: torch.tensor(x.detach().flatten()[:1].tolist()),
}


@pytest.mark.parametrize("name", CHANGING)
def test_nothing_is_folded_behind(name: str) -> None:
    torch.manual_seed(0)
    model = Scaled(CHANGING[name]).eval()
    made = plan(model, torch.rand(2, 3, 6, 6) + 0.2, threshold=1e-2)
    assert not made.folds
    assert all("made" not in parameter for parameter in made.removed)


STAYING: dict[str, Callable[[Any, Tensor], Tensor | float]] = {
    "a plain tensor that a module holds": lambda m, x: m.kept,
    "a number in the code": lambda m, x: 0.3,
    "a tensor written down in the code": lambda m, x: torch.tensor([0.3]),
    "a table made of nothing": lambda m, x: torch.linspace(0.1, 1.0, 16)[3],
    "a buffer": lambda m, x: m.mean,
    "what is written in a slice": lambda m, x: torch.cat([torch.ones(4), torch.zeros(12).fill_(2.0)])[7],
    "a number read off a constant": lambda m, x: float(torch.tensor([2.0]).max()),
}


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_the_same_is_folded(name: str) -> None:
    torch.manual_seed(0)
    model = Scaled(STAYING[name]).double().eval()
    made = plan(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), threshold=1e-2)
    assert [fold.channels for fold in made.folds] == [6]
    small = prune(model, made)
    for _ in range(3):
        images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        assert torch.allclose(model(images), small(images), atol=1e-12)


class Mixed(nn.Module):
    """Constant filters that meet others elsewhere than in a layer's weights."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.made = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.norm = nn.GroupNorm(1, 16) if how == "group norm" else nn.LayerNorm(16)
        self.own = nn.Parameter(torch.randn(16, 5) / 4)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.made(x)
        tokens = h.flatten(2).transpose(1, 2)
        if self.how == "layer norm":
            return self.head(self.norm(tokens).transpose(1, 2).unflatten(2, (6, 6)))
        if self.how == "group norm":
            return self.head(self.norm(h))
        if self.how == "products of positions":
            return torch.bmm(tokens, tokens.transpose(1, 2))
        if self.how == "einsum":
            return torch.einsum("nchw,cd->ndhw", h, self.own)
        if self.how == "norm by hand":
            return self.head(h / (h.square().mean(1, keepdim=True) + 1e-3).sqrt())
        return self.head(torch.nn.functional.normalize(h, dim=1))


@pytest.mark.parametrize("constant", [0.8, -0.3])
@pytest.mark.parametrize(
    "how", ["layer norm", "group norm", "products of positions", "einsum", "norm by hand", "normalize"]
)
def test_a_constant_that_meets_others_elsewhere_than_in_weights_stays_or_is_right(how: str, constant: float) -> None:
    torch.manual_seed(0)
    model = Mixed(how).double().eval()
    with torch.no_grad():
        model.made[1].weight[:6] = 0
        model.made[1].bias[:6] = constant
    made = plan(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), threshold=1e-2)
    small = prune(model, made)
    for _ in range(3):
        images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        assert torch.allclose(model(images), small(images), atol=1e-10)
    if how in ("products of positions", "einsum") and constant < 0:
        assert not made.is_empty  # zeros add nothing


@pytest.mark.parametrize("constant", [0.8, -0.3])
def test_a_grouped_convolution_reads_a_channel_of_every_group(constant: float) -> None:
    """The same column of its weight reads one channel in each group: constants of all of them count, not the first group's."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
    model = nn.Sequential(*made, nn.Conv2d(16, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1)).double().eval()
    with torch.no_grad():
        made[1].weight[[1, 9]] = 0
        made[1].bias[1], made[1].bias[9] = -0.5, constant
    plan_ = plan(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), threshold=1e-2)
    assert plan_.is_empty is (constant > 0)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(model(images), prune(model, plan_)(images), atol=1e-12)
