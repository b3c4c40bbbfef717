"""Small networks whose blocks compute sizes from other sizes, the way attention is written in the wild."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

TOKENS, WIDTH, HEADS = 6, 24, 4


class _Attention(nn.Module):
    """Queries, keys and values of tokens [N, T, C]; C // heads is computed from the width of what comes in."""

    def __init__(self, heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        n, h, t, d = x.shape
        return self.proj(x.transpose(1, 2).reshape(n, t, h * d))


class WindowAttention(_Attention):
    """The scale is computed from the width of a head; a table of biases is picked by numbers and has one column a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS))
        self.register_buffer("offsets", (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) + TOKENS - 1).reshape(-1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.split(x)
        scores = q * (c // self.num_heads) ** -0.5 @ k.transpose(-2, -1)
        scores = scores + self.table[self.offsets].view(t, t, -1).permute(2, 0, 1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


class CosineAttention(_Attention):
    """Queries and keys of length one, and a temperature of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.rand(HEADS, 1, 1) + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(x)
        scores = normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return self.merge(scores.softmax(-1) @ v)


class ChannelAttention(_Attention):
    """Attention between the channels of a head, not between tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(x)
        scores = (q.transpose(-2, -1) @ k * x.shape[1] ** -0.5).softmax(-1)
        return self.merge((scores @ v.transpose(-2, -1)).transpose(-2, -1))


class TalkingHeads(_Attention):
    """The scores of all heads are mixed by a linear layer: values have other heads than queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(HEADS, HEADS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(x)
        scores = self.mix((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.merge(scores.softmax(-1) @ v)


class RotaryAttention(_Attention):
    """Queries and keys are normalised over the width of each head and turned by a table along it."""

    def __init__(self) -> None:
        super().__init__()
        width = WIDTH // HEADS
        self.norm = nn.LayerNorm(width)
        angles = torch.arange(TOKENS)[:, None] * torch.linspace(0.1, 1.0, width // 2)
        self.register_buffer("cosines", torch.cat([angles.cos(), angles.cos()], 1))
        self.register_buffer("sines", torch.cat([angles.sin(), angles.sin()], 1))

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cosines + torch.cat([-second, first], dim=-1) * self.sines

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(x)
        scores = self.turn(self.norm(q)) @ self.turn(self.norm(k)).transpose(-2, -1)
        return self.merge(scores.softmax(-1) @ v)


class WidthMajor(_Attention):
    """Heads are put back behind their width: neighbours in the result are of different heads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.split(x)
        return self.proj(((q @ k.transpose(-2, -1)).softmax(-1) @ v).permute(0, 2, 3, 1).reshape(n, t, c))


class LinearAttention(_Attention):
    """Keys and values are summed up before a query comes: [heads, width, width]. The scale is a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(x)
        return self.merge(self.scale * q @ (k.softmax(dim=2).transpose(-2, -1) @ v))


class Fused(_Attention):
    """Torch's fused attention computes the scale itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(nn.functional.scaled_dot_product_attention(*self.split(x)))


class TorchAttention(nn.Module):
    """``nn.MultiheadAttention``."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class PositionMixing(nn.Module):
    """A convolution of one position over tokens: what it does not look at may shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(TOKENS, TOKENS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(x)


class SelectiveKernels(nn.Module):
    """Two paths read halves of the channels, split by an attribute; a softmax over the paths weighs each channel of both."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.paths = WIDTH, 2
        self.first = nn.Linear(WIDTH // 2, WIDTH)
        self.second = nn.Linear(WIDTH // 2, WIDTH)
        self.weigh = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(x, self.in_channels // self.paths, -1)
        both = torch.stack([self.first(left), self.second(right)], dim=-2)
        weights = self.weigh(both.sum(-2).mean(1))
        weights = weights.view(weights.shape[0], 1, self.paths, -1).softmax(2)
        return (both * weights).sum(-2)


SHAPES: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(WindowAttention, CosineAttention, ChannelAttention, TalkingHeads, RotaryAttention, WidthMajor),
        *(LinearAttention, Fused, TorchAttention, PositionMixing, SelectiveKernels),
    )
}


class Network(nn.Module):
    """Two residual blocks of one kind with a hidden layer each, between an embedding and a classifier."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Linear(5, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for norm, block, hidden in zip(self.norms, self.blocks, self.hidden, strict=True):
            x = x + block(norm(x))
            x = x + hidden(x)
        return self.head(x.mean(1))


class UnevenChunks(nn.Module):
    """22 channels in three chunks, of 8, 8 and 6; each has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 22)
        self.parts = nn.ModuleList(nn.Linear(width, 9) for width in (8, 8, 6))
        self.head = nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.embed(x).relu().chunk(3, dim=-1)
        return self.head(sum(layer(part).tanh() for layer, part in zip(self.parts, parts, strict=True)).mean(1))
