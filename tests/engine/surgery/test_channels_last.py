"""A model laid out channels last runs other copies than tensors without data do: nothing may depend on their number."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import nn

from flowprune.methods.importance import L2, NuclearNorm
from flowprune.models import create
from flowprune.pruning import plan, prune


def with_dead_constants() -> nn.Module:
    torch.manual_seed(0)
    model = randomized(create("resnet8"), dead=0.3).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias[module.weight == 0] = 0.3
    return model


@pytest.mark.parametrize("budget", [{"macs": 0.6}, {"threshold": 0.01}])
def test_the_plan_is_that_of_the_same_model_laid_out_contiguously(budget: dict[str, float]) -> None:
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = plan(with_dead_constants(), images, importance=L2(), fold_tolerance=10.0, **budget)
    assert expected.folds
    for inputs in (images, images.to(memory_format=torch.channels_last)):
        model = with_dead_constants().to(memory_format=torch.channels_last)
        made = plan(model, inputs, importance=L2(), fold_tolerance=10.0, **budget)
        assert made.removed == expected.removed
        assert [(fold.target, fold.channels) for fold in made.folds] == [(f.target, f.channels) for f in expected.folds]
        small = prune(model, made)
        assert small.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            assert largest_difference(small(inputs), prune(with_dead_constants(), expected)(images)) < 1e-10


def test_feature_maps_are_those_of_the_layers() -> None:
    class Pooled(nn.Module):
        """A pooling in the middle, which is where the copy is taken."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)
            self.gate, self.last, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 12, 3), nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            x = x * self.gate(self.pool(x)).sigmoid()
            return self.head(self.last(x).relu().mean((2, 3)))

    torch.manual_seed(0)
    model, images = Pooled().double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    criterion = NuclearNorm([images])
    expected = plan(model, images, importance=criterion, channels=0.5)
    model = model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    made = plan(model, images, importance=NuclearNorm([images]), channels=0.5)
    assert made.removed == expected.removed
    with torch.no_grad():
        assert largest_difference(prune(model, made)(images), silenced_twin(model, made)(images)) < 1e-10
