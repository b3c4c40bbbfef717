"""A convolution's groups and a group norm's cannot leave as a whole: their number is the operator's, not the cut's."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import nn

from flowprune.methods.importance import L1
from flowprune.methods.importance import Random as RandomImportance
from flowprune.pruning import plan, prune


class BetweenShuffles(nn.Module):
    """A channel shuffle between grouped convolutions of as many groups as each has channels: it ties what one group makes."""

    def __init__(self, normalized: bool) -> None:
        super().__init__()
        self.groups = 4
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 1, groups=1 if normalized else 4)
        self.norm = nn.GroupNorm(4, 16) if normalized else nn.Identity()
        self.second = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(torch.relu(self.stem(x))))
        b, c, h, w = x.shape
        x = x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_one_group_makes_stays(normalized: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model = randomized(BetweenShuffles(normalized)).double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    made = plan(model, images, importance=L1() if seed == 0 else RandomImportance(seed=seed), channels=0.5)
    small, twin = prune(model, made), silenced_twin(model, made)
    with torch.no_grad():
        assert largest_difference(small(images), twin(images)) < 1e-10
    assert 0 not in made.removed.get("first.weight", {})
    assert "only leave as a whole" in made.frozen["first.weight"]
    assert made.params[1] < made.params[0]


class Shuffled(nn.Module):
    """Torch's own module for the shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.shuffle = nn.ChannelShuffle(2)
        self.grouped = nn.Conv2d(16, 16, 1, groups=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.grouped(self.shuffle(torch.relu(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_torchs_own_channel_shuffle_is_followed(seed: int) -> None:
    torch.manual_seed(seed)
    model = Shuffled().double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    made = plan(model, images, importance=RandomImportance(seed=seed), channels=0.5)
    with torch.no_grad():
        assert largest_difference(prune(model, made)(images), silenced_twin(model, made)(images)) < 1e-10
    assert {name: len(dimensions[0]) for name, dimensions in made.removed.items() if 0 in dimensions} == {
        "stem.weight": 8,
        "stem.bias": 8,
        "grouped.weight": 8,
        "grouped.bias": 8,
    }
