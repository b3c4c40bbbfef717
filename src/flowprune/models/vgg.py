"""Plain networks: VGG with batch norm for 32 x 32 images, and smaller siblings.

Simonyan and Zisserman, "Very Deep Convolutional Networks" (2015), configurations D (16 layers) and E (19), as the
pruning literature uses them on CIFAR: batch norm after each convolution (which then needs no bias) and a head of one
hidden layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from flowprune.errors import ModelError
from flowprune.models.initialisation import initialise


class PlainNet(nn.Module):
    """Stages of 3x3 convolutions (each with batch norm and ReLU), halved by max-pooling in between, a global mean,
    and a head.

    Args:
        convolutions: how many each stage has; the stages have 1, 2, 4, 8, 8 times ``width`` channels.
        hidden: whether the head has a hidden layer (with batch norm and ReLU, as wide as the last stage).
        classes: logits.
        in_channels: of the image.
        width: channels of the first stage.
    """

    def __init__(
        self, convolutions: Sequence[int], *, hidden: bool, classes: int = 10, in_channels: int = 3, width: int = 64
    ) -> None:
        super().__init__()
        if min(*convolutions, classes, in_channels, width) < 1:
            raise ModelError("a VGG needs at least 1 convolution a stage, class, input channel and channel of width")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for stage, count in enumerate(convolutions, start=1):
            stage_width = width * min(2 ** (stage - 1), 8)
            for position in range(1, count + 1):
                layers[f"conv{stage}_{position}"] = nn.Conv2d(channels, stage_width, 3, padding=1, bias=False)
                layers[f"bn{stage}_{position}"] = nn.BatchNorm2d(stage_width)
                layers[f"relu{stage}_{position}"] = nn.ReLU()
                channels = stage_width
            if stage < len(convolutions):
                layers[f"pool{stage}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(layers)
        head: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden:
            head["hidden"] = nn.Linear(channels, channels)
            head["bn"] = nn.BatchNorm1d(channels)
            head["relu"] = nn.ReLU()
        head["linear"] = nn.Linear(channels, classes)
        self.classifier = nn.Sequential(head)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] (H and W at least 2 ** (stages - 1)) -> logits [N, classes]."""
        pooled = functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        logits: Tensor = self.classifier(pooled)
        return logits
