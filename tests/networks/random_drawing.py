"""Draw the blocks of a random architecture, and blocks within blocks, by a ``random.Random``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import random_blocks as blocks
import random_conditions as conditions
import random_gates as gates
import random_lookups as lookups
import random_rarer_blocks as rarer
import random_token_blocks as token_blocks
import torch
from torch import nn

WIDTHS = (8, 12, 16, 24)
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda width: nn.ReLU(inplace=True),
    "gelu": lambda width: nn.GELU(),
    "silu": lambda width: nn.SiLU(),
    "hardswish": lambda width: nn.Hardswish(),
    "leaky": lambda width: nn.LeakyReLU(0.1),
    "sigmoid": lambda width: nn.Sigmoid(),  # not zero at zero
    "prelu": lambda width: nn.PReLU(width),
    "prelu of one": lambda width: nn.PReLU(1),
    "none": lambda width: nn.Identity(),
}


class Drawing:
    """Draws blocks; counts the kinds it has drawn."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.kinds: Counter[str] = Counter()

    def pick(self, *among: Any) -> Any:
        return self.random.choice(among)

    def often(self, share: float) -> bool:
        return self.random.random() < share

    def count(self, kind: str) -> str:
        self.kinds[kind] += 1
        return kind

    def width(self, *divisors: int) -> int:
        return self.pick(*(width for width in WIDTHS if all(width % d == 0 for d in divisors)))

    def norm(self, width: int) -> nn.Module:
        kind = self.count(self.pick("batch norm", "batch norm", "group norm", "layer norm", "instance norm", "no norm"))
        if kind == "batch norm":
            return nn.BatchNorm2d(width)
        if kind == "group norm":
            return nn.GroupNorm(self.pick(1, *(g for g in (2, 4) if width % g == 0)), width)
        if kind == "layer norm":
            return blocks.ChannelsFirstNorm(width)
        return nn.InstanceNorm2d(width, affine=True) if kind == "instance norm" else nn.Identity()

    def unit(self, inside: int, outside: int, stride: int = 1) -> nn.Module:
        """Convolution, norm, activation, in one order or the other."""
        kernel, groups = self.pick(1, 3), self.pick(1, 1, 1, 2, 4)
        groups = groups if inside % groups == 0 and outside % groups == 0 else 1
        self.count("convolution" if groups == 1 else "grouped convolution")
        norm = self.norm(outside)
        convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=self.often(0.5))
        kind = self.pick(*ACTIVATIONS)
        if kind == "none" and isinstance(norm, nn.InstanceNorm2d):
            kind = "gelu"  # the mean of what such a norm returns is a constant, and after global pooling the whole network's output
        if kind.startswith("prelu"):
            self.count("prelu")
        if self.often(0.15) and inside > 3:
            self.count("norm and activation first")
            return nn.Sequential(nn.BatchNorm2d(inside), ACTIVATIONS[kind](inside), convolution)
        return nn.Sequential(convolution, norm, ACTIVATIONS[kind](outside))

    def separable(self, inside: int, outside: int) -> nn.Module:
        self.count("depthwise convolution")
        times = self.pick(1, 1, 2)
        return nn.Sequential(
            nn.Conv2d(inside, inside * times, 3, padding=1, groups=inside, bias=self.often(0.5)),
            self.norm(inside * times),
            self.unit(inside * times, outside),
        )

    def body(self, inside: int, outside: int, size: int, depth: int) -> nn.Module:
        """One or two blocks of one size of map."""
        parts, width = [], inside
        for number in range(total := self.pick(1, 1, 1, 2)):
            after = outside if number == total - 1 else self.pick(inside, self.width())
            parts.append(self.block(width, after, size, depth - 1))
            width = after
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    def block(self, inside: int, outside: int, size: int, depth: int) -> nn.Module:
        """Any block from ``inside`` to ``outside`` channels that keeps the size of the map."""
        if depth <= 0 or self.often(0.15):
            kind = self.pick("unit", "unit", "unit", "separable", "raw", "flat", "untyped")
        else:
            kinds = ["concat", "concat", "join", "projected", "u-net"]
            if inside == outside:
                kinds += ["same"] * 15
            kind = self.pick(*kinds)
        if kind == "unit":
            return self.unit(inside, outside)
        if kind == "separable":
            return self.separable(inside, outside)
        if kind == "raw":
            self.count("raw kernel")
            return blocks.RawKernel(inside, outside)
        if kind == "untyped":
            how = self.pick("glu", "einsum", "linear", "product")
            self.count(f"no module: {how}")
            return rarer.Untyped(inside, outside, how)
        if kind == "flat":
            dimensions = self.pick(1, 1, 3)
            self.count(f"convolution in {dimensions} dimensions")
            return blocks.Flat(inside, outside, dimensions, self.pick(1, 2 if inside % 2 == outside % 2 == 0 else 1))
        if kind == "same":
            return self.same(inside, size, depth)
        if kind == "concat":
            own = self.pick(0, 0, 1, 1, 2)
            self.count("concat")
            branches = [self.body(inside, self.width(), size, depth - 1) for _ in range(self.pick(1, 2, 2, 3))]
            width = sum(self._widths(branches, inside, size)) + own * inside
            return nn.Sequential(blocks.Concatenated(branches, own), self.unit(width, outside))
        if kind == "join":
            how = self.pick("add", "multiply", "gate", "maximum", "stack")
            self.count(f"branches: {how}")
            left, right = (self.body(inside, outside, size, depth - 1) for _ in range(2))
            return blocks.Joined(left, right, how)
        if kind == "u-net" and size >= 4:
            self.count("u-net")
            width = self.width()
            up = None
            if self.often(0.6):
                after, groups = self.width(), self.pick(1, 1, 2)
                self.count("transposed convolution")
                up = nn.Sequential(nn.ConvTranspose2d(width, after, 2, 2, groups=groups), self.norm(after), nn.ReLU())
            else:
                self.count("interpolation")
                after = width
            inner = self.body(inside, width, size // 2, depth - 1)
            return nn.Sequential(blocks.Encoded(inner, up), self.unit(inside + after, outside))
        self.count("projected residual")
        return blocks.Projected(self.body(inside, outside, size, depth - 1), inside, outside, 1)

    def _widths(self, branches: list[nn.Module], inside: int, size: int) -> list[int]:
        with torch.no_grad():
            return [branch.eval()(torch.zeros(1, inside, size, size)).shape[1] for branch in branches]

    def same(self, width: int, size: int, depth: int) -> nn.Module:
        """A block that changes nothing of the shape."""
        kind = self.pick(
            *("residual", "residual", "split", "split", "shuffle", "squeeze", "mask", "twice", "pixels", "mixer"),
            *("attention", "attention", "attention", "rearranged", "rearranged", "selective", "own norms"),
            *("gate", "gate", "gate", "gate", "lookup", "lookup", "rms"),
        )
        if kind in ("gate", "lookup", "rms"):
            return self.behind_a_batch_norm(width, size, kind)
        if kind == "residual":
            scaled = self.often(0.4)
            self.count("layer scale" if scaled else "residual")
            return blocks.Residual(self.body(width, width, size, depth - 1), width, scaled, self.often(0.5))
        if kind == "split":
            return self.split(width, size, depth)
        if kind == "shuffle":
            self.count("channel shuffle")
            groups = self.pick(2, 4)
            shuffle = blocks.Shuffled(width, groups, self.pick("shape", "attribute", "open", "module"))
            if self.often(0.5):
                grouped = nn.Conv2d(width, width, 1, groups=groups)
                return nn.Sequential(grouped, shuffle, nn.Conv2d(width, width, 3, padding=1, groups=groups))
            return nn.Sequential(self.unit(width, width), shuffle, self.unit(width, width))
        if kind == "squeeze":
            self.count("squeeze and excite")
            how = self.pick("convolution", "linear", "linear", "attribute", "along")
            return blocks.Squeezed(width, self.pick(4, 6, 8), how)
        if kind == "mask":
            self.count("broadcast mask")
            return blocks.Masked(width, self.often(0.25))
        if kind == "twice":
            self.count("shared module")
            return blocks.Twice(self.body(width, width, size, depth - 1), self.often(0.6))
        if kind == "rearranged":
            rearranged = rarer.Rearranged(width, self.pick(*rarer.REARRANGEMENTS))
            self.count(f"channels {rearranged.how}")
            after = self.unit(width * rearranged.factor, width)
            return (
                nn.Sequential(self.unit(width, width), rearranged, after)
                if self.often(0.5)
                else nn.Sequential(rearranged, after)
            )
        if kind == "selective":
            self.count("selective kernels")
            left, right = (self.body(width, width, size, depth - 1) for _ in range(2))
            return rarer.Selective(left, right, width, self.pick(4, 8), self.pick("learned", "chunk", "view"))
        if kind == "own norms":
            self.count("shared convolution, own norms")
            return rarer.OwnNorms(width)
        if kind == "pixels":
            self.count("pixel shuffle")
            if self.often(0.5) and size >= 4:  # an instance norm of one pixel is none
                return nn.Sequential(nn.PixelUnshuffle(2), self.unit(width * 4, width * 4), nn.PixelShuffle(2))
            wide = nn.Conv2d(width, width * 4, 3, padding=1)
            return nn.Sequential(wide, nn.PixelShuffle(2), self.unit(width, width, stride=2))
        if kind == "mixer":
            self.count("positions mixed")
            return blocks.Positions(size * size)
        return self.tokens(width, size)

    def batch_normed(self, inside: int, outside: int) -> nn.Module:
        """Convolution, batch norm, activation: its dead filters are constants."""
        convolution = nn.Conv2d(inside, outside, self.pick(1, 3), padding="same", bias=self.often(0.5))
        return nn.Sequential(convolution, nn.BatchNorm2d(outside), ACTIVATIONS[self.pick(*ACTIVATIONS)](outside))

    def reader(self, width: int) -> nn.Module:
        """What reads a feature map and can take a constant exactly: no padding; or any unit."""
        return nn.Conv2d(width, width, 1) if self.often(0.6) else self.unit(width, width)

    def behind_a_batch_norm(self, width: int, size: int, kind: str) -> nn.Module:
        """A batch norm, whose constants are no constants any more behind what follows, and a reader."""
        if kind == "gate":
            how = self.pick(*gates.GATES)
            between: nn.Module = gates.Gated(width, size, how)
        elif kind == "lookup":
            how = self.pick(*lookups.LOOKUPS)
            between = lookups.LookedUp(width, size, how)
        else:
            how = self.pick("torch", "written")
            between = gates.ChannelsFirstRMSNorm(width, 1e-5) if how == "torch" else gates.WrittenRMSNorm(width)
        self.count(f"{kind}: {how}")
        return nn.Sequential(self.batch_normed(width, width), between, self.reader(width))

    def conditioned(self, inside: int, outside: int, size: int) -> list[nn.Module]:
        """A block that reads a further input of the network, and what reads the block."""
        condition = self.pick(*conditions.CONDITIONS)
        self.count(f"input: {condition}")
        body = self.batch_normed(inside, outside)
        residual = inside == outside and self.often(0.3)
        return [conditions.Conditioned(body, outside, size, condition, residual), self.reader(outside)]

    def split(self, width: int, size: int, depth: int) -> nn.Module:
        how = self.pick("chunk", "list", "attributes", "slices", "shape", "unbind", "closed")
        even = how in ("chunk", "shape", "unbind") or self.often(0.4)
        first = width // 2 if even else self.pick(*range(2, width - 1, 2))
        self.count("even split" if first * 2 == width else "uneven split")
        left, right = (
            self.body(n, n, size, depth - 1) if self.often(0.7) else nn.Identity() for n in (first, width - first)
        )
        return blocks.Split(left, right, (first, width - first), how)

    def tokens(self, width: int, size: int) -> nn.Module:
        heads = self.pick(*(h for h in (1, 2, 3, 4, 6) if width % h == 0))
        parts: list[nn.Module] = []
        window = 2 if self.often(0.2) and size % 2 == 0 else 0
        count, class_token = (window or size) ** 2, self.often(0.3)
        for _ in range(self.pick(1, 1, 2)):
            how = self.pick(
                *("plain", "plain", "fused", "fused", "einsum", "separate", "across", "library"),
                *("one", "cosine", "linear", "table"),
            )
            self.count(f"attention: {how}")
            attention: nn.Module
            if how == "across":
                attention = token_blocks.Across(width, heads)
            elif how in ("one", "cosine", "linear", "table"):
                attention = rarer.Shared(width, heads, how, count + class_token)
            elif how == "library":
                attention = token_blocks.Library(width, heads)
            else:
                sizes = self.pick("shape", "attribute", "chunk")
                attention = token_blocks.Attention(width, heads, how, sizes, self.often(0.3))
            parts.append(self.prenormed(attention, width))
            if self.often(0.7):
                hidden = self.pick(8, 16, 24)
                perceptron: nn.Module = token_blocks.Perceptron(width, hidden, self.often(0.3))
                if self.often(0.2):
                    self.count("tied weights")
                    perceptron = rarer.Tied(width, hidden)
                parts.append(self.prenormed(perceptron, width))
        if window:
            self.count("windows")
        table = self.count(f"positions: {self.pick('none', 'parameter', 'embedding')}").partition(": ")[2]
        if class_token:
            self.count("class token")
        back = self.pick("attribute", "open", "unflatten")
        return token_blocks.Tokens(nn.Sequential(*parts), width, count, table, class_token, back, window)

    def prenormed(self, body: nn.Module, width: int) -> nn.Module:
        norm = self.pick("layer", "layer", "rms", "none")
        self.count(f"tokens' norm: {norm}")
        return token_blocks.Prenormed(body, width, norm, self.often(0.3))

    def down(self, inside: int, outside: int, size: int) -> nn.Module:
        """Half the size."""
        kind = self.count(self.pick("strided", "projected", "option A", "pooled", "pooled", "quartered"))
        if kind == "strided":
            return self.unit(inside, outside, stride=2)
        if kind == "projected":
            body = nn.Sequential(self.unit(inside, outside, stride=2), self.body(outside, outside, size // 2, 1))
            return blocks.Projected(body, inside, outside, 2)
        if kind == "option A" and outside > inside:
            front = self.pick(0, (outside - inside) // 2)
            how = self.pick("attribute", "closure", "shape")
            body = nn.Sequential(self.unit(inside, outside, stride=2), self.unit(outside, outside))
            return blocks.Padded(body, front, outside - inside - front, how)
        if kind == "quartered":
            return nn.Sequential(rarer.Quartered(), self.unit(4 * inside, outside))
        pool = self.pick(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(size // 2), nn.MaxPool2d(3, 2, 1))
        return nn.Sequential(pool, self.unit(inside, outside))
