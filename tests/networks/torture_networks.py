"""Small networks, each with one construction that breaks pruning tools: 3 to 50 lines, 3x16x16 images, 5 classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (3, 16, 16)


def unit(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class Headed(nn.Module):
    """A body, global average pooling, a linear classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 5)

    def body(self, x: Tensor) -> Tensor:
        raise AssertionError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class CatOfItself(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.first, self.second = unit(3, 16), unit(32, 32)

    def body(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(torch.cat([y, y], 1))


class DenseChain(Headed):
    def __init__(self) -> None:
        super().__init__(40)
        self.stem = unit(3, 16)
        self.layers = nn.ModuleList([unit(16 + 8 * i, 8) for i in range(3)])

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class ChunkedBranches(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.left, self.right, self.last = unit(3, 32), unit(16, 16), unit(16, 16), unit(32, 32)

    def body(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, 1)
        return self.last(torch.cat([self.left(a), self.right(b)], 1))


class FasterBottleneck(nn.Module):
    """Chunk, a list that grows, concatenation: the C2f block of YOLOv8."""

    def __init__(self, width: int, repeats: int = 2) -> None:
        super().__init__()
        self.enter = unit(width, width, 1)
        self.leave = unit((2 + repeats) * (width // 2), width, 1)
        self.inner = nn.ModuleList(
            [nn.Sequential(unit(width // 2, width // 2), unit(width // 2, width // 2)) for _ in range(repeats)]
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        parts.extend(part for part in self._grow(parts[-1]))
        return self.leave(torch.cat(parts, 1))

    def _grow(self, x: Tensor) -> list[Tensor]:
        found = []
        for inner in self.inner:
            x = x + inner(x)
            found.append(x)
        return found


class YoloBlock(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.block = unit(3, 32), FasterBottleneck(32)

    def body(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


class UnevenSplit(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.small, self.large, self.last = unit(3, 24), unit(8, 16), unit(16, 16), unit(32, 32)
        self.more = unit(32, 32)

    def body(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.stem(x), [8, 16], 1)
        return self.more(self.last(torch.cat([self.small(a), self.large(b)], 1)))


class BroadcastMask(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.mask, self.last = unit(3, 32), nn.Conv2d(32, 1, 1), unit(32, 32)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(torch.sigmoid(self.mask(x)) * x)


class SqueezeConvolution(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.last = unit(3, 32), unit(32, 32)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1))))
        return self.last(x * torch.sigmoid(gate))


class SqueezeLinear(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.last = unit(3, 32), unit(32, 32)
        self.gate = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32), nn.Sigmoid())

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, _, _ = x.size()
        return self.last(x * self.gate(x.mean((2, 3)).view(b, c)).view(b, c, 1, 1))


class DepthwiseSeparable(Headed):
    def __init__(self) -> None:
        super().__init__(48)
        self.body_layers = nn.Sequential(
            unit(3, 32), unit(32, 32, groups=32), unit(32, 48, 1), unit(48, 96, groups=48), unit(96, 48, 1)
        )

    def body(self, x: Tensor) -> Tensor:
        return self.body_layers(x)


class GroupedResidual(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.reduce = unit(3, 32), unit(32, 32, 1)
        self.grouped, self.expand = unit(32, 32, groups=4), unit(32, 32, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.expand(self.grouped(self.reduce(x)))


class FlattenLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(unit(3, 16), nn.MaxPool2d(2), unit(16, 24), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(24 * 16, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class WrittenView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(unit(3, 32), unit(32, 32), unit(32, 8), nn.AdaptiveAvgPool2d(4))
        self.classifier = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).view(-1, 8 * 16))


class ChannelShuffle(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.grouped, self.last = unit(3, 32), unit(32, 32, 1, groups=4), unit(32, 32, groups=4)

    def body(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x))
        b, c, h, w = x.shape
        x = x.view(b, 4, c // 4, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.last(x)


class PixelShuffled(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.up, self.last = unit(3, 32), nn.Conv2d(32, 64, 3, padding=1), unit(16, 32)
        self.more = unit(32, 32)

    def body(self, x: Tensor) -> Tensor:
        return self.more(self.last(functional.pixel_shuffle(self.up(self.stem(x)), 2)))


class CalledTwice(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.shared, self.last = unit(3, 24), unit(24, 24), unit(24, 32)

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(self.stem(x))))


class OptionA(Headed):
    """The shortcut of every CIFAR ResNet of the literature, its widths in a closure."""

    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.inner = unit(3, 16), unit(16, 32, stride=2)
        self.outer = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        planes = 32
        self.shortcut: Callable[[Tensor], Tensor] = lambda x: functional.pad(
            x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0
        )

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return functional.relu(self.outer(self.inner(x)) + self.shortcut(x))


class Transposed(Headed):
    def __init__(self) -> None:
        super().__init__(24)
        self.stem, self.last = unit(3, 32, stride=2), unit(24, 24)
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 24, 2, 2), nn.BatchNorm2d(24), nn.ReLU())

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.stem(x)))


class GroupNormalized(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU())
        self.last = nn.Sequential(unit(32, 32), unit(32, 32))

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.stem(x))


class LayerScaled(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.inner = unit(3, 32), nn.Sequential(unit(32, 32), nn.Conv2d(32, 32, 1))
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 32).view(32, 1, 1))

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.scale * self.inner(x)


class RawWeight(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.last = unit(3, 32), unit(32, 32)
        self.kernel = nn.Parameter(torch.randn(32, 32, 3, 3) * 0.1)
        self.offset = nn.Parameter(torch.randn(32) * 0.1)

    def body(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(functional.conv2d(self.stem(x), self.kernel, self.offset, padding=1)))


class DataDependent(Headed):
    def __init__(self) -> None:
        super().__init__(32)
        self.stem, self.last = unit(3, 32), nn.Sequential(unit(32, 32), nn.Conv2d(32, 32, 1))

    def body(self, x: Tensor) -> Tensor:
        bright = bool(x.mean() > 0)
        x = self.last(self.stem(x))
        return torch.tanh(x) if bright else functional.relu(x)


class DictOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = unit(3, 32), unit(32, 32)
        self.out, self.auxiliary = nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        result = {"out": self.out(self.deep(x).mean((2, 3)))}
        if self.training:
            result["auxiliary"] = self.auxiliary(x.mean((2, 3)))
        return result


TORTURE: dict[str, Callable[[], nn.Module]] = {
    "cat of itself": CatOfItself,
    "dense concatenation chain": DenseChain,
    "chunk, two branches, cat": ChunkedBranches,
    "C2f of YOLOv8": YoloBlock,
    "uneven split": UnevenSplit,
    "broadcast mask": BroadcastMask,
    "squeeze and excite, convolutions": SqueezeConvolution,
    "squeeze and excite, linear and view": SqueezeLinear,
    "depthwise and pointwise": DepthwiseSeparable,
    "grouped convolution in a residual": GroupedResidual,
    "flatten and linear": FlattenLinear,
    "view with a written number": WrittenView,
    "channel shuffle": ChannelShuffle,
    "pixel shuffle": PixelShuffled,
    "one convolution called twice": CalledTwice,
    "option-A shortcut": OptionA,
    "transposed convolution": Transposed,
    "group norm": GroupNormalized,
    "layer-scale parameter": LayerScaled,
    "raw weight": RawWeight,
    "data-dependent branch": DataDependent,
    "dictionary output with an auxiliary head": DictOutput,
}
