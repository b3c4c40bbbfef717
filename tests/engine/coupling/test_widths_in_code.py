"""Widths that no weight shows: of norms without a weight, and those that code compares with a tensor's before it goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn

import flowprune as fp
from flowprune.methods.importance import Random

ROWS = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def normalized(norm: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), norm(), nn.GELU(), nn.Linear(16, 4))


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(16), lambda: nn.RMSNorm(16)], ids=["layer norm", "RMS norm"])
def test_norms_with_a_weight_equal_their_twins(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = randomized(normalized(norm)).double().eval()
    plan = fp.plan(model, ROWS, importance=Random(seed=0), channels=0.5)
    small = fp.prune(model, plan)
    assert small[0].out_features == 8 and small[1].normalized_shape == (8,)
    assert largest_difference(small(ROWS), silenced_twin(model, plan)(ROWS)) < 1e-12


@pytest.mark.parametrize(
    "norm",
    [lambda: nn.LayerNorm(16, elementwise_affine=False), lambda: nn.RMSNorm(16, elementwise_affine=False)],
    ids=["layer norm", "RMS norm"],
)
def test_norms_without_a_weight_are_of_the_kept_channels(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = normalized(norm).double().eval()
    plan = fp.plan(model, ROWS, importance=Random(seed=0), channels=0.5)
    small = fp.prune(model, plan)
    kept = [channel for channel in range(16) if channel not in plan.removed["0.weight"][0]]
    assert len(kept) == 8 and small[1].normalized_shape == (8,) and model[1].normalized_shape == (16,)
    expected = small[1](model[0](ROWS)[..., kept])
    expected = nn.functional.linear(nn.functional.gelu(expected), model[3].weight[:, kept], model[3].bias)
    assert largest_difference(small(ROWS), expected) < 1e-12
    assert largest_difference(silenced_twin(model, plan)(ROWS), expected) < 1e-12


class Asserting(nn.Module):
    """As diffusers' up- and downsampling does: the width is written down, only to be asserted."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 5, 1)
        self.width, self.shape = 12, (12, 6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x).relu()
        assert x.shape[1] == self.width, "another width"
        if x.shape[1:] != self.shape:
            raise ValueError("another shape")
        return self.out(x)


def test_widths_that_are_asserted_follow() -> None:
    torch.manual_seed(0)
    model = randomized(Asserting()).double().eval()
    plan = fp.plan(model, IMAGES, importance=Random(seed=0), channels=0.5)
    small = fp.prune(model, plan)
    assert small.width == 6 and small.shape == (6, 6, 6) and model.width == 12
    assert largest_difference(small(IMAGES), silenced_twin(model, plan)(IMAGES)) < 1e-12


def test_a_width_that_is_compared_and_must_stay_keeps_its_channels() -> None:
    class Outgoing(Asserting):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            inner = self.into(x)
            assert inner.shape[1] == self.width
            return self.out(inner), inner

    model = Outgoing().double().eval()
    plan = fp.plan(model, IMAGES, importance=Random(seed=0), channels=0.5)
    assert plan.is_empty and not plan.attributes


def test_another_way_taken_at_another_width_is_the_way_of_the_dense_model() -> None:
    class Projecting(nn.Module):
        """The shortcut is projected only where widths differ, as the code finds out while it runs."""

        def __init__(self, leaving: int) -> None:
            super().__init__()
            self.leaving = leaving
            self.into, self.body = nn.Conv2d(3, 8, 1), nn.Conv2d(8, leaving, 3, padding=1)
            self.shortcut, self.out = nn.Conv2d(8, leaving, 1), nn.Conv2d(leaving, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x).relu()
            way = x if x.shape[1] == self.leaving else self.shortcut(x)
            return self.out((self.body(x) + way).relu())

    for leaving in (8, 12):
        torch.manual_seed(0)
        model = randomized(Projecting(leaving)).double().eval()
        for budget in ({"channels": 0.5}, {"macs": 0.6}):
            plan = fp.plan(model, IMAGES, importance=Random(seed=1), **budget)
            small = fp.prune(model, plan)
            assert not plan.is_empty
            assert largest_difference(small(IMAGES), silenced_twin(model, plan)(IMAGES)) < 1e-12
