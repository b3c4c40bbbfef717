"""Code that runs in training only, or in evaluation only, is part of the model: coupled, pruned and certified too."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn
from torch.nn import functional
from torture_networks import IMAGE, Headed, unit

from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

IMAGES = torch.randn(3, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class DeepSupervision(Headed):
    """While training, a classifier behind every stage, each through a convolution of its own."""

    def __init__(self) -> None:
        super().__init__(32)
        self.stages = nn.ModuleList([unit(3, 16), unit(16, 24, stride=2), unit(24, 32)])
        self.sides = nn.ModuleList([nn.Sequential(unit(w, 16, 1), nn.Conv2d(16, 5, 1)) for w in (16, 24)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        main = self.head(x.mean((2, 3)))
        if not self.training:
            return (main,)
        return (main, *(side(level).mean((2, 3)) for side, level in zip(self.sides, maps, strict=False)))


class RefinedWhenUsed(Headed):
    """In evaluation a refinement that training leaves out, and the mean over two views of the image."""

    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.deep, self.refine = unit(3, 24), unit(24, 32), unit(32, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            return (self.head(self.deep(self.stem(x)).mean((2, 3))),)
        views = [self.deep(self.stem(view)) for view in (x, x.flip(3))]
        refined = [view + self.refine(view) for view in views]
        return (torch.stack([self.head(view.mean((2, 3))) for view in refined]).mean(0),)


class CountedInTraining(Headed):
    """What only training does holds channels by a number in the code."""

    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.deep = unit(3, 16), unit(16, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        main = self.head(self.deep(x).mean((2, 3)))
        if not self.training:
            return (main,)
        return (main, functional.avg_pool2d(x, 16).view(-1, 4, 4).sum((1, 2)))


@pytest.mark.parametrize("network", [DeepSupervision, RefinedWhenUsed, CountedInTraining])
def test_both_modes_equal_the_twin(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = randomized(network()).double().eval()
    made = plan(model, IMAGES[:1], importance=L2(), channels=0.5)
    small, twin = prune(model, made), silenced_twin(model, made)
    for training in (False, True):
        with torch.no_grad():
            found, expected = small.train(training)(IMAGES), twin.train(training)(IMAGES)
        assert len(found) == len(expected)
        assert all(largest_difference(one, other) < 1e-10 for one, other in zip(found, expected, strict=True))
    assert made.params[1] <= 0.7 * made.params[0]


def test_what_only_training_runs_is_pruned_with_the_rest() -> None:
    made = plan(DeepSupervision(), IMAGES[:1].float(), importance=L2(), channels=0.5)
    assert made.removed["sides.0.0.0.weight"][1] == made.removed["stages.0.0.weight"][0]
    assert made.removed["sides.0.0.0.weight"][0] == made.removed["sides.0.1.weight"][1]
    assert set(made.frozen) == {"head.weight", "sides.0.1.weight", "sides.1.1.weight"}


def test_a_number_that_only_training_reads_holds_its_channels() -> None:
    made = plan(CountedInTraining(), IMAGES[:1].float(), importance=L2(), channels=0.5)
    assert "stem.0.weight" not in made.removed and "stem.0.weight" in made.frozen
    assert 0 in made.removed["deep.0.weight"]
