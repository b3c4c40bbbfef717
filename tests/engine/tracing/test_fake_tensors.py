"""A forward that makes tensors of its own runs on fake tensors, not on meta ones; what it may lose does not depend on that."""

from __future__ import annotations

import torch
from torch import nn

from flowprune.engine.tracing import trace
from flowprune.methods.importance import L2
from flowprune.pruning import plan


class Weighted(nn.Module):
    """Positions are weighted by numbers that the forward makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.slope = nn.Parameter(torch.ones(1))
        self.last = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x * (self.slope * torch.arange(x.shape[-1])).softmax(0)
        return self.head(self.last(x).mean((2, 3)))


def test_a_model_that_needs_fake_tensors_is_pruned_like_any_other() -> None:
    model, images = Weighted(), torch.randn(2, 3, 8, 8)
    assert trace(model, images).tensors == "fake"
    made = plan(model, images, importance=L2(), channels=0.5)
    assert set(made.frozen) == {"head.weight"}
    assert made.params[1] <= 0.5 * made.params[0]
