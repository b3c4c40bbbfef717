"""One integer of the user's code that counts several channels: they shrink in step, whatever the budget takes from each."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn
from torch.nn import functional

import flowprune as fp
from flowprune.methods.importance import L2, Random

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Halves(nn.Module):
    """Ultralytics' C2f in the form that it is exported in: split into two parts of ``width``."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.into, self.side = nn.Conv2d(3, 24, 1), nn.Conv2d(12, 12, 3, padding=1)
        self.join, self.out = nn.Conv2d(36, 20, 1), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.into(x).relu().split((self.width, self.width), 1)
        joined = self.join(torch.cat([first, second, self.side(second).relu()], 1)).relu()
        return self.out(joined.mean((2, 3)))


class TwoTensors(nn.Module):
    """The same number reshapes two tensors of different layers that meet nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 10
        self.left, self.right = nn.Conv2d(3, 10, 1), nn.Conv2d(3, 10, 3, padding=1)
        self.last = nn.ModuleList([nn.Linear(64, 5), nn.Linear(64, 5)])
        self.mix = nn.ModuleList([nn.Conv1d(10, 6, 1), nn.Conv1d(10, 6, 1)])

    def forward(self, x: Tensor) -> Tensor:
        parts = [layer(x).relu().reshape(len(x), self.width, 64) for layer in (self.left, self.right)]
        return sum(last(mix(part)) for last, mix, part in zip(self.last, self.mix, parts, strict=True))


class OneAndTwo(nn.Module):
    """A split into parts of once and of twice the number."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.into = nn.Conv2d(3, 24, 1)
        self.small, self.large = nn.Conv2d(8, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = functional.silu(self.into(x)).split([self.width, 2 * self.width], 1)
        return self.small(one) + self.large(two)


@pytest.mark.parametrize(
    "budget", [{"macs": 0.5}, {"params": 0.75}, {"channels": 0.5}, {"macs": 0.5, "scope": "local"}]
)
@pytest.mark.parametrize("build", [Halves, TwoTensors, OneAndTwo])
def test_they_shrink_in_step(build: type[nn.Module], budget: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = randomized(build()).double().eval()
    widths = []
    for seed in range(3):
        plan = fp.plan(model, IMAGES, importance=Random(seed=seed), **budget)
        small = fp.prune(model, plan)
        widths.append(small.width)
        assert not any("at once" in reason for reason in plan.frozen.values())
        assert largest_difference(small(IMAGES), silenced_twin(model, plan)(IMAGES)) < 1e-10
        assert largest_difference(small(IMAGES), model(IMAGES)) > 1e-6
    assert 1 < min(widths) < model.width


def test_what_cannot_shrink_in_step_stays() -> None:
    class Bound(Halves):
        """The second half is an output, too."""

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            first, second = self.into(x).relu().split((self.width, self.width), 1)
            return self.out(self.join(torch.cat([first, second, self.side(second).relu()], 1)).mean((2, 3))), second

    model = randomized(Bound()).double().eval()
    plan = fp.plan(model, IMAGES, importance=L2(), macs=0.9)
    small = fp.prune(model, plan)
    assert small.width == 12 and small.into.out_channels == 24 and small.join.out_channels < 20
    twin = silenced_twin(model, plan)
    for mine, its in zip(small(IMAGES), twin(IMAGES), strict=True):
        assert largest_difference(mine, its) < 1e-10
