"""The twin's limits are found where they are, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import randomized, silenced_twin
from torch import Tensor, nn
from twin_limits import undefined

from flowprune.methods.importance import Random
from flowprune.pruning import plan


class Statistic(nn.Module):
    """A statistic over the channels in the middle of other code."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 5, 1)
        self.norm, self.root_mean_square = nn.LayerNorm(16), nn.RMSNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "mean":
            h = h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-5)
        if self.how == "sum":
            h = h / (h.square().sum(1, keepdim=True) + 1e-5)
        if self.how == "norm":
            h = self.norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.how == "norm, places":  # the norm is made of operators, of which the twin's is not
            h = self.root_mean_square(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if "places" in self.how:
            h = h * h.mean((2, 3), keepdim=True).softmax(2)
        return self.second(h)


@pytest.mark.parametrize("how", ["mean", "sum", "norm", "places", "norm, places", "none"])
def test_a_mean_of_removed_channels_is_one(how: str) -> None:
    torch.manual_seed(0)
    model = randomized(Statistic(how)).double().eval()
    inputs = [(torch.randn(2, 3, 16, 16, dtype=torch.float64),) for _ in range(3)]
    made = plan(model, inputs[0], importance=Random(seed=0), channels=0.5)
    place = undefined(model, silenced_twin(model, made), inputs)
    if how == "mean":
        assert not made.is_empty and place is not None and "aten.mean" in place
    else:
        assert place is None
