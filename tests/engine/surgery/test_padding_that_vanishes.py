"""Channels that padding makes: where all of one padding's have left, the next one's are still told from them."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn
from torch.nn import functional

from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune


class TwoPaddings(nn.Module):
    """Two additions to a stream that is padded to their width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 8, 1)
        self.first = self.second = (1, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(self.one(x) + functional.pad(x, (0, 0, 0, 0, *self.first)))
        x = functional.relu(self.two(x) + functional.pad(x, (0, 0, 0, 0, *self.second)))
        return self.head(x)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_cut_that_takes_all_padded_channels_is_right(share: float) -> None:
    model, x = randomized(TwoPaddings()).double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    made = plan(model, x, importance=L2(), channels={"one": share, "*": 1.0}, largest_cut=1.0)
    small = prune(model, made)
    assert small.first == ((0, 0) if share == 0.25 else (0, 1)) and small.second == (1, 1)
    with torch.no_grad():
        assert largest_difference(small(x), silenced_twin(model, made)(x)) < 1e-12
