"""Normalisations written out by hand run over the channels that stay; other statistics over channels freeze them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from silenced_twin import largest_difference, silenced_twin
from torch import nn

from flowprune.methods.importance import Random
from flowprune.pruning import plan, prune

Normalize = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(what is normalised, the part of it that the statistic is of) -> normalised."""


def layer_norm(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    mean = part.mean(-1, keepdim=True)
    variance = (part - mean).pow(2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def root_mean_square(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + 1e-5)


def standard_deviation(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return (x - part.mean(-1, keepdim=True)) / (part.std(-1, keepdim=True) + 1e-5)


def response(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return x * (x.abs() / (part.abs().mean(-1, keepdim=True) + 1e-5))


def unit_length(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return x / part.norm(dim=-1, keepdim=True).clamp_min(1e-5)


def gate(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return x * part.mean(-1, keepdim=True).sigmoid()


def product(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return x * part.mean(-1, keepdim=True)


def turned_around(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return (part.pow(2).mean(-1, keepdim=True) + 1) / (x.abs() + 1)


def also_a_feature(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    mean = part.mean(-1, keepdim=True)
    return (x - mean) + mean.tanh()


class Normalized(nn.Module):
    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.kept: list[int] | None = None
        self.stem = nn.Linear(4, 12)
        self.weight = nn.Parameter(torch.rand(12) + 0.5)
        self.hidden = nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        part = x if self.kept is None else x[..., self.kept]
        return self.head(self.hidden(self.normalize(x, part) * self.weight).relu())


@pytest.mark.parametrize("normalize", [layer_norm, root_mean_square, standard_deviation, response, unit_length])
def test_the_statistic_is_of_the_channels_that_stay(normalize: Normalize) -> None:
    torch.manual_seed(0)
    model = Normalized(normalize).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    made = plan(model, x, importance=Random(seed=3), channels=0.5)
    small, twin = prune(model, made), silenced_twin(model, made)
    twin.kept = [channel for channel in range(12) if channel not in made.removed["stem.weight"][0]]
    assert len(twin.kept) == 6
    with torch.no_grad():
        assert largest_difference(small(x), twin(x)) < 1e-12
        assert largest_difference(model(x), twin(x)) > 1e-3


@pytest.mark.parametrize("normalize", [gate, product, turned_around, also_a_feature])
def test_any_other_statistic_over_channels_keeps_them(normalize: Normalize) -> None:
    torch.manual_seed(0)
    model = Normalized(normalize)
    made = plan(model, torch.randn(5, 4), importance=Random(seed=3), channels=0.5)
    assert "is taken over the channels" in made.frozen["stem.weight"]
    assert 0 not in made.removed.get("stem.weight", {}) and 0 in made.removed["hidden.weight"]
