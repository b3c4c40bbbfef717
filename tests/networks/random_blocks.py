"""Building blocks of random architectures, on feature maps [batch, channels, height, width]: plain modules, plain Python forwards.

Every block is written as users write theirs: sizes come from ``x.shape``, from attributes, or stand in the code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelsFirstNorm(nn.LayerNorm):
    """A layer norm over the channels of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """The same width: the input itself is added, through a layer-scale parameter perhaps."""

    def __init__(self, body: nn.Module, width: int, scaled: bool, after: bool) -> None:
        super().__init__()
        self.body, self.after = body, after
        self.scale = nn.Parameter(torch.rand(width, 1, 1) + 0.5) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = x + (y if self.scale is None else self.scale * y)
        return functional.relu(y) if self.after else y


class Projected(nn.Module):
    """Another width or size: the shortcut is a convolution."""

    def __init__(self, body: nn.Module, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class Padded(nn.Module):
    """Option A: every other pixel, and channels of zeros; their number is an attribute, in a closure, or computed from shapes."""

    def __init__(self, body: nn.Module, front: int, back: int, how: str) -> None:
        super().__init__()
        self.body, self.front, self.back, self.how = body, front, back, how
        self.shortcut: Callable[[Tensor], Tensor] = lambda x: functional.pad(
            x[:, :, ::2, ::2], (0, 0, 0, 0, front, back), "constant", 0
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.how == "attribute":
            z = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.front, self.back))
        elif self.how == "closure":
            z = self.shortcut(x)
        else:
            z = functional.pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 0, y.shape[1] - x.size(1)))
        return y + z


class Concatenated(nn.Module):
    """Branches side by side, and the input beside them perhaps (twice, perhaps)."""

    def __init__(self, branches: list[nn.Module], own: int) -> None:
        super().__init__()
        self.branches, self.own = nn.ModuleList(branches), own

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.own + [branch(x) for branch in self.branches], 1)


class Joined(nn.Module):
    """Branches of one shape made one: added, multiplied, gated, the larger, or stacked and summed."""

    def __init__(self, left: nn.Module, right: nn.Module, how: str) -> None:
        super().__init__()
        self.left, self.right, self.how = left, right, how

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        if self.how == "add":
            return a + b
        if self.how == "multiply":
            return a * b
        if self.how == "gate":
            return a * torch.sigmoid(b)
        if self.how == "maximum":
            return torch.maximum(a, b)
        return torch.stack([a, b], 1).sum(1)


class Split(nn.Module):
    """The channels in two parts, each its own way, and together again."""

    def __init__(self, left: nn.Module, right: nn.Module, sizes: tuple[int, int], how: str) -> None:
        super().__init__()
        self.left, self.right, self.how = left, right, how
        self.sizes, self.first, self.second = list(sizes), sizes[0], sizes[1]
        self.closed: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: torch.split(x, list(sizes), 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "chunk":
            a, b = x.chunk(2, 1)
        elif self.how == "list":
            a, b = torch.split(x, self.sizes, dim=1)
        elif self.how == "attributes":
            a, b = torch.split(x, [self.first, self.second], 1)
        elif self.how == "slices":
            a, b = x[:, : self.first], x[:, self.first :]
        elif self.how == "shape":
            a, b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        elif self.how == "unbind":
            a, b = x.reshape(x.shape[0], 2, -1, x.shape[2], x.shape[3]).unbind(1)
        else:
            a, b = self.closed(x)
        return torch.cat([self.left(a), self.right(b)], dim=1)


class Shuffled(nn.Module):
    """The channels of the groups one after the other."""

    def __init__(self, width: int, groups: int, how: str) -> None:
        super().__init__()
        self.width, self.groups, self.how = width, groups, how
        self.module = nn.ChannelShuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.module(x)
        b, c, h, w = x.size()
        if self.how == "attribute":
            return x.view(b, self.groups, self.width // self.groups, h, w).transpose(1, 2).reshape(b, self.width, h, w)
        if self.how == "open":
            return x.reshape(b, self.groups, -1, h, w).permute(0, 2, 1, 3, 4).flatten(1, 2)
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class Squeezed(nn.Module):
    """Squeeze-and-excite, by convolutions or by linear layers and views; or a gate along the channels (ECA)."""

    def __init__(self, width: int, hidden: int, how: str) -> None:
        super().__init__()
        self.width, self.how = width, how
        if how == "convolution":
            self.enter, self.leave = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)
        elif how == "along":
            self.enter = nn.Conv1d(1, 1, 3, padding=1)
        else:
            self.enter, self.leave = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "along":
            y = self.enter(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
            return x * torch.sigmoid(y)[:, :, None, None]
        if self.how == "convolution":
            y = functional.adaptive_avg_pool2d(x, 1)
            return x * functional.hardsigmoid(self.leave(functional.silu(self.enter(y))))
        b, c = x.shape[:2]
        y = self.leave(functional.relu(self.enter(functional.adaptive_avg_pool2d(x, 1).view(b, c))))
        return x * torch.sigmoid(y).view(b, self.width if self.how == "attribute" else c, 1, 1).expand_as(x)


class Masked(nn.Module):
    """A mask of one channel, made of all channels, laid over all of them."""

    def __init__(self, width: int, spatial: bool) -> None:
        super().__init__()
        self.mask = nn.Conv2d(2 if spatial else width, 1, 3, padding=1)
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        read = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1) if self.spatial else x
        return x * torch.sigmoid(self.mask(read))


class RawKernel(nn.Module):
    """A convolution whose kernel is no module's weight."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(outside, inside, 3, 3) / (3 * inside**0.5))
        self.offset = nn.Parameter(torch.rand(outside) - 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(functional.conv2d(x, self.kernel, self.offset, padding=1))


class Twice(nn.Module):
    """One module, called twice: one after the other, or side by side."""

    def __init__(self, shared: nn.Module, chained: bool) -> None:
        super().__init__()
        self.shared, self.chained = shared, chained

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x)) if self.chained else self.shared(x) + self.shared(x.flip(3))


class Encoded(nn.Module):
    """Down, through, up, and beside what was there before: one level of a U-Net."""

    def __init__(self, body: nn.Module, up: nn.Module | None) -> None:
        super().__init__()
        self.body, self.up = body, up

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(functional.max_pool2d(x, 2))
        if self.up is not None:
            return torch.cat([x, self.up(y)], 1)
        return torch.cat([x, functional.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)], 1)


class Flat(nn.Module):
    """Along all positions at once: a convolution in one dimension, or in three with a depth of one."""

    def __init__(self, inside: int, outside: int, dimensions: int, groups: int) -> None:
        super().__init__()
        kind = nn.Conv1d if dimensions == 1 else nn.Conv3d
        self.layer = kind(inside, outside, 3, padding=1, groups=groups)
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        if self.dimensions == 1:
            return functional.relu(self.layer(x.flatten(2))).view(b, -1, h, w)
        return functional.relu(self.layer(x.unsqueeze(2))).squeeze(2)


class Positions(nn.Module):
    """A linear layer over positions, the same for every channel, as in MLP-Mixer."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.layer = nn.Linear(positions, positions)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x.flatten(2)).reshape(x.shape)
