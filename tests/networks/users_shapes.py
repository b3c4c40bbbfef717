"""Three shapes that users' own networks have, small: a detector with a neck, a U-Net, two towers that share an encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torture_networks import FasterBottleneck, unit


class PyramidPooling(nn.Module):
    """The SPPF block of YOLOv5 and v8: three poolings in a row, all four maps side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = unit(width, width // 2, 1), unit(width * 2, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.enter(x)]
        maps.extend(self.pool(maps[-1]) for _ in range(3))
        return self.leave(torch.cat(maps, 1))


class Detector(nn.Module):
    """A backbone of C2f blocks, a neck that goes up and down the pyramid, a head of two branches at each of three scales.

    Returns one tensor a scale: [N, 4 + classes, H, W].
    """

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = unit(3, 16, stride=2)
        self.fine = nn.Sequential(unit(16, 24, stride=2), FasterBottleneck(24, 1))
        self.middle = nn.Sequential(unit(24, 32, stride=2), FasterBottleneck(32, 1))
        self.coarse = nn.Sequential(unit(32, 48, stride=2), FasterBottleneck(48, 1), PyramidPooling(48))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge_middle, self.middle_in = FasterBottleneck(32, 1), unit(48 + 32, 32, 1)
        self.merge_fine, self.fine_in = FasterBottleneck(24, 1), unit(32 + 24, 24, 1)
        self.down_fine, self.down_middle = unit(24, 24, stride=2), unit(32, 32, stride=2)
        self.again_middle = nn.Sequential(unit(24 + 32, 32, 1), FasterBottleneck(32, 1))
        self.again_coarse = nn.Sequential(unit(32 + 48, 48, 1), FasterBottleneck(48, 1))
        self.boxes = nn.ModuleList([nn.Sequential(unit(w, 16), nn.Conv2d(16, 4, 1)) for w in (24, 32, 48)])
        self.classes = nn.ModuleList([nn.Sequential(unit(w, 16), nn.Conv2d(16, classes, 1)) for w in (24, 32, 48)])

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(self.stem(x))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.merge_middle(self.middle_in(torch.cat([self.up(coarse), middle], 1)))
        fine = self.merge_fine(self.fine_in(torch.cat([self.up(middle), fine], 1)))
        middle = self.again_middle(torch.cat([self.down_fine(fine), middle], 1))
        coarse = self.again_coarse(torch.cat([self.down_middle(middle), coarse], 1))
        return [
            torch.cat([boxes(scale), classes(scale)], 1)
            for scale, boxes, classes in zip((fine, middle, coarse), self.boxes, self.classes, strict=True)
        ]


class UNet(nn.Module):
    """Two levels down and up again, each joined to the level it came from by concatenation.

    Args:
        transposed: go up by transposed convolutions; else by interpolation to the size of the skip.
    """

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.downs = nn.ModuleList([self._double(3, 16), self._double(16, 32)])
        self.bottom = self._double(32, 48)
        widths = ((48, 32), (32, 16))
        self.rises = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) if transposed else nn.Identity() for a, b in widths])
        self.ups = nn.ModuleList([self._double((b if transposed else a) + b, b) for a, b in widths])
        self.mask = nn.Conv2d(16, 2, 1)

    @staticmethod
    def _double(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(unit(inside, outside), unit(outside, outside))

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for rise, up in zip(self.rises, self.ups, strict=True):
            skip = skips.pop()
            x = rise(x)
            if x.shape[-2:] != skip.shape[-2:]:
                x = functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([skip, x], 1))
        return self.mask(x)


class TwoTowers(nn.Module):
    """One encoder for both inputs, a projection each, and what the two have to do with one another: [N] or [N, 2].

    Args:
        cosine: the cosine of the angle between both projections; else a small network on both, their difference and product.
    """

    def __init__(self, cosine: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(unit(3, 16, stride=2), unit(16, 32, stride=2), unit(32, 48))
        self.left, self.right = nn.Linear(48, 24), nn.Linear(48, 24)
        self.cosine = cosine
        self.judge = nn.Sequential(nn.Linear(4 * 24, 32), nn.ReLU(), nn.Linear(32, 2)) if not cosine else nn.Identity()

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        left = self.left(self.encoder(query).mean((2, 3)))
        right = self.right(self.encoder(document).mean((2, 3)))
        if self.cosine:
            return functional.cosine_similarity(left, right)
        return self.judge(torch.cat([left, right, (left - right).abs(), left * right], 1))


USERS_SHAPES: dict[str, Callable[[], nn.Module]] = {
    "detector with a neck": Detector,
    "U-Net, transposed convolutions": lambda: UNet(transposed=True),
    "U-Net, interpolation": lambda: UNet(transposed=False),
    "two towers, cosine": lambda: TwoTowers(cosine=True),
    "two towers, concatenation": lambda: TwoTowers(cosine=False),
}


def images_for(name: str, batch: int) -> tuple[Tensor, ...]:
    """Random inputs in float64: positional arguments of the shape's forward."""
    size = 64 if name.startswith("detector") else 16
    return tuple(torch.randn(batch, 3, size, size, dtype=torch.float64) for _ in range(1 + name.startswith("two")))
