"""Detectors: how much comes out depends on the data. What carries channels is proved all the same, and the boxes stay right."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import randomized, silenced_twin
from torch import Tensor, nn

from flowprune.engine.measuring import measure
from flowprune.engine.planning import CoupledModel
from flowprune.methods.importance import Random
from flowprune.models import create
from flowprune.pruning import plan, prune


def unit(entering: int, leaving: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(entering, leaving, 3, padding=1), nn.BatchNorm2d(leaving), nn.ReLU())


class Finder(nn.Module):
    """Scores at every position; those above zero are returned, or looked at once more."""

    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(3, 16), unit(16, 16))
        self.head = nn.Conv2d(16, 5, 1)
        self.again = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 2)) if again else None

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.body(x)).flatten(2).transpose(1, 2)
        found = scores[scores.amax(2) > 0.1]
        return found if self.again is None else self.again(found)


class Flattener(Finder):
    """Puts rows and outputs into one dimension, as a keypoint detector's loss does."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found.reshape(found.shape[0] * 2).exp()


class Looper(Finder):
    """Goes another way by what it found: as many rounds as there are scores above zero in the first image's corner."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.body(x))
        for _ in range(int((scores[0, :, 0, 0] > 0).sum())):
            scores = scores * 1.5 + 1
        return scores


class LooperThroughChannels(Looper):
    """The rounds run through layers of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.round = unit(5, 5)
        self.inner = nn.Sequential(nn.Conv2d(5, 12, 1), nn.ReLU(), nn.Conv2d(12, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.body(x))
        for _ in range(1 + int((scores[0, :, 0, 0] > 0).sum())):
            scores = self.inner(scores)
        return scores


@pytest.mark.parametrize(
    "build", [Finder, lambda: Finder(again=True), lambda: Flattener(again=True), Looper, LooperThroughChannels]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_networks_whose_sizes_depend_on_data_equal_their_twins(build: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    model = randomized(build(), seed).double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    made = plan(model, images, importance=Random(seed=seed), channels=0.5)
    assert 0 in made.removed["body.0.0.weight"] and 0 in made.removed["body.1.0.weight"]
    small, twin = prune(model, made).eval(), silenced_twin(model, made)
    for _ in range(3):
        images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        with torch.no_grad():
            found, expected = small(images), twin(images)
        assert found.shape == expected.shape
        assert torch.allclose(
            found, expected, rtol=0, atol=1e-10 * max(1.0, float(expected.abs().max() if expected.numel() else 0))
        )


def test_a_mask_over_channels_keeps_them() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = unit(3, 8), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([True, False] * 4)
            return self.head(self.body(x).mean((2, 3))[:, mask])

    made = plan(Masked().eval(), torch.randn(2, 3, 8, 8), importance=Random(seed=0), channels=0.5)
    assert made.is_empty
    assert "picked by numbers" in made.frozen["body.0.weight"]


def test_a_detector_loses_its_channels_and_counts_an_image_of_the_list() -> None:
    torch.manual_seed(0)
    options = {"weights_backbone": None, "weights": None, "num_classes": 4}
    model = create("torchvision:ssdlite320_mobilenet_v3_large", **options).eval()
    images = list(torch.rand(2, 3, 96, 96))
    targets = [{"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])} for _ in images]
    made = plan(model, (images, targets), importance=Random(seed=0), channels=0.5)
    assert made.params[1] < 0.6 * made.params[0]
    assert made.macs[0] == pytest.approx(measure(model, (images[:1], targets[:1])).macs, rel=1e-3)
    small = prune(model, made)
    losses = small.train()(images, targets)
    sum(losses.values()).backward()
    assert CoupledModel.of(model, (images, targets)).batch == 2
