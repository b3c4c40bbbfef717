"""The ResNets of the CIFAR literature: three stages of basic blocks, shortcuts without parameters ("option A") or 1x1 ("option B").

He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2. Depth = 6 n + 2 for n blocks a stage.
The names of the modules are those of the widely used pretrained weights (``conv1``, ``layer1.0.bn2``, ``linear``), so
these load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from flowprune.errors import ModelError
from flowprune.models.initialisation import initialise


class PaddedShortcut(nn.Module):
    """Option A: every ``stride``-th position, and zero channels on both sides. No parameters.

    Channel ``c`` of the input becomes channel ``c + channels_before`` of the output. The pad widths are plain integer
    attributes so that surgery can mend them after channels have left on either side.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels_before = (channels_out - channels_in) // 2
        self.channels_after = channels_out - channels_in - self.channels_before

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, before + C + after, ceil(H / stride), ceil(W / stride)]."""
        positions = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(positions, (0, 0, 0, 0, self.channels_before, self.channels_after))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"stride={self.stride}, channels_before={self.channels_before}, channels_after={self.channels_after}"


class BasicBlock(nn.Module):
    """relu(branch(x) + shortcut(x)), the branch being two 3x3 convolutions, each with batch norm."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: str = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        keeps_shape = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module = nn.Identity()
        if not keeps_shape and shortcut == "A":
            self.shortcut = PaddedShortcut(channels_in, channels_out, stride)
        elif not keeps_shape:
            convolution = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels_in, H, W] -> [N, channels_out, H / stride, W / stride]."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A convolution, three stages of ``blocks`` basic blocks with 1, 2 and 4 times ``width`` channels, global mean,
    linear.

    Args:
        blocks: basic blocks a stage (3 for ResNet-20, 9 for ResNet-56, 18 for ResNet-110).
        classes: logits.
        in_channels: of the image.
        width: channels of the first stage.
        shortcut: where the shape changes: "A", zero channels without parameters, or "B", a 1x1 convolution with a batch norm.
    """

    def __init__(
        self, blocks: int, *, classes: int = 10, in_channels: int = 3, width: int = 16, shortcut: str = "A"
    ) -> None:
        super().__init__()
        if min(blocks, classes, in_channels, width) < 1:
            raise ModelError("a ResNet needs at least 1 block a stage, class, input channel and channel of width")
        if shortcut not in ("A", "B"):
            raise ModelError(f'shortcut={shortcut!r} is not known; use "A" (padded) or "B" (a 1x1 convolution)')
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.linear = nn.Linear(4 * width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] (32 x 32 in the literature) -> logits [N, classes]."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    """The first block changes the shape, the others keep it."""
    first = BasicBlock(channels_in, channels_out, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))
