"""Four tiny networks of digits, each of one kind of layers, with names that a preset's ``layers`` uses."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

LAYERS = {
    "linear": ("first", "hidden", "head"),
    "grouped": ("stem", "plain", "grouped", "pointwise", "head"),
    "depthwise": ("stem", "plain", "depthwise", "pointwise", "head"),
    "transformer": ("patches", "attention", "feed_forward", "head"),
}
"""Kind of network -> its layers, in order, each a part of the dotted names of its weights."""


def linear() -> nn.Module:
    """Two hidden layers."""
    layers = (nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 10))
    return nn.Sequential(OrderedDict(zip(("flat", "first", "relu1", "hidden", "relu2", "head"), layers, strict=True)))


def convolutions(name: str, groups: int) -> nn.Module:
    """Two plain convolutions, one that reads a part of its channels, and a pointwise one, each with a batch norm."""
    layers: dict[str, nn.Module] = {}
    for own, layer in (
        ("stem", nn.Conv2d(1, 16, 3, padding=1)),
        ("plain", nn.Conv2d(16, 16, 3, padding=1)),
        (name, nn.Conv2d(16, 16, 3, padding=1, groups=groups)),
        ("pointwise", nn.Conv2d(16, 16, 1)),
    ):
        layers |= {own: layer, f"norm_of_{own}": nn.BatchNorm2d(16), f"relu_of_{own}": nn.ReLU()}
    end = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(16, 10)}
    return nn.Sequential(OrderedDict({**layers, **end}))


class Attention(nn.Module):
    """Four heads of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (4, 2)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        out: Tensor = self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(8), Attention(), nn.LayerNorm(8)
        self.feed_forward = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Two blocks over four patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(1, 8, 4, stride=4), nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.patches(x).flatten(2).mT)).mean(1))
        return out


def network(kind: str) -> nn.Module:
    """The network of a kind, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "linear":
            return linear()
        return Transformer() if kind == "transformer" else convolutions(kind, {"grouped": 2, "depthwise": 16}[kind])
