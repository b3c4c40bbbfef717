"""Building blocks of random architectures, the rarer ones: channels rearranged, weights used twice, gates between branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

REARRANGEMENTS = (
    *("flip", "roll", "permuted", "selected", "interleaved", "strided", "narrow", "swapped", "repeated", "duplicated"),
    *("quarters", "by hand"),
)


class Rearranged(nn.Module):
    """The channels in another order, or twice; ``factor`` says how many times as many there are then."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how, self.width, self.first = how, width, width // 4
        self.factor = 2 if how in ("repeated", "duplicated") else 1
        self.register_buffer("order", torch.randperm(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "flip":
            return x.flip(1)
        if self.how == "roll":
            return torch.roll(x, 3, 1)
        if self.how == "permuted":
            return x[:, self.order]
        if self.how == "selected":
            return x.index_select(1, self.order)
        if self.how == "interleaved":
            return torch.stack(x.chunk(2, 1), 2).flatten(1, 2)
        if self.how == "strided":
            return torch.cat([x[:, ::2], x[:, 1::2]], 1)
        if self.how == "narrow":
            rest = x.narrow(1, self.first, x.shape[1] - self.first)
            return torch.cat([rest, x.narrow(1, 0, self.first)], 1)
        if self.how == "swapped":
            left, right = x.split(self.width // 2, 1)
            return torch.cat((right, left), dim=1)
        if self.how == "repeated":
            return x.repeat(1, 2, 1, 1)
        if self.how == "duplicated":
            return x.repeat_interleave(2, dim=1)
        if self.how == "quarters":
            a, b, c, d = torch.chunk(x, 4, dim=1)
            return torch.cat([d, torch.relu(b), a, c], 1)
        b, c, h, w = x.shape  # a pixel shuffle and its reverse, written out
        x = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, h * 2, w * 2)
        return x.view(b, c // 4, h, 2, w, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, -1, h, w)


class Selective(nn.Module):
    """Two branches, and a softmax between them for every channel (selective kernels)."""

    def __init__(self, left: nn.Module, right: nn.Module, width: int, hidden: int, how: str) -> None:
        super().__init__()
        self.left, self.right, self.how = left, right, how
        self.squeeze = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU()
        )  # a ReLU of four units may be dead on every image, and nothing removed would show
        self.excite = nn.Linear(hidden, 2 * width)
        self.weights = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.left(x), self.right(x)], 1)
        if self.how == "learned":
            return (both * self.weights.softmax(0).view(1, 2, 1, 1, 1)).sum(1)
        gate = self.excite(self.squeeze(both.sum(1).mean((2, 3))))
        if self.how == "chunk":
            a, b = torch.stack(gate.chunk(2, 1)).softmax(0)
            return both[:, 0] * a[:, :, None, None] + both[:, 1] * b[:, :, None, None]
        return (both * gate.view(x.shape[0], 2, -1, 1, 1).softmax(1)).sum(1)


class OwnNorms(nn.Module):
    """One convolution, two norms: each call has its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = torch.relu(norm(self.shared(x)))
        return x


class Untyped(nn.Module):
    """Layers that are no modules: an einsum with a parameter, a slope a channel, a gated unit."""

    def __init__(self, inside: int, outside: int, how: str) -> None:
        super().__init__()
        self.how = how
        if how == "glu":
            self.layer = nn.Conv2d(inside, 2 * outside, 1)
        else:
            self.matrix = nn.Parameter(torch.randn(outside, inside) / inside**0.5)
            self.slope = nn.Parameter(torch.rand(outside, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "glu":
            return functional.glu(self.layer(x), 1)
        if self.how == "einsum":
            y = torch.einsum("bchw,oc->bohw", x, self.matrix)
        elif self.how == "linear":
            y = functional.linear(x.movedim(1, -1), self.matrix).movedim(-1, 1)
        else:
            y = (self.matrix @ x.flatten(2)).unflatten(2, x.shape[2:])
        return torch.where(y > 0, y, self.slope * y)


class Quartered(nn.Module):
    """Half the size: every other pixel, four times, side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


class Shared(nn.Module):
    """Attention with one head of keys and values, with cosine scores, a table of biases, or no softmax of scores."""

    def __init__(self, width: int, heads: int, how: str, tokens: int) -> None:
        super().__init__()
        self.heads, self.how = heads, how
        self.head_dim = width // heads
        self.groups = 1 if how == "one" else heads
        self.query, self.proj = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * self.groups * self.head_dim)
        self.table = nn.Parameter(torch.randn(heads, tokens, tokens) * 0.5)
        self.temperature = nn.Parameter(torch.rand(heads, 1, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.query(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k, v = self.key_value(x).view(b, n, 2, self.groups, self.head_dim).permute(2, 0, 3, 1, 4)
        if self.how == "linear":
            y = q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)
        elif self.how == "cosine":
            scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
            y = (scores * self.temperature).softmax(-1) @ v
        else:
            y = (q @ k.transpose(-2, -1) * self.head_dim**-0.5 + self.table).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


class Tied(nn.Module):
    """Up by a matrix, down by the same."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, hidden)
        self.offset = nn.Parameter(torch.rand(width) - 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.gelu(self.layer(x)), self.layer.weight.t(), self.offset)
