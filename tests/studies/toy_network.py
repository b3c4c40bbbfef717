"""A residual network of six layers, for runs that are about what surrounds a network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from flowprune.models.resnet import BasicBlock


class ToyNetwork(nn.Module):
    """A stem, a block that keeps the shape, one that does not, and a head. The short forms of presets name layers 1 to 3."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        convolution = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
        self.layer2 = BasicBlock(width, width, 1)
        self.layer3 = BasicBlock(width, 2 * width, 2)
        self.linear = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 1, H, W] -> logits [N, classes]."""
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits
