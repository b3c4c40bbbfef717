"""Building blocks of random architectures, on tokens [batch, tokens, width], and the ways from feature maps to tokens and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention: spelled out, fused, or by einsum; sizes from attributes, shapes or both."""

    def __init__(self, width: int, heads: int, how: str, sizes: str, biased: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.how, self.sizes = heads, width // heads, how, sizes
        self.scale = self.head_dim**-0.5
        if how == "separate":
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Parameter(torch.randn(heads, 1, 1) * 0.5) if biased else None
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        if self.how == "separate":
            q, k, v = (layer(x).reshape(b, n, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        elif self.sizes == "shape":
            q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        elif self.sizes == "attribute":
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            parts = self.qkv(x).chunk(3, dim=-1)
            q, k, v = (part.reshape(b, n, self.heads, -1).transpose(1, 2) for part in parts)
        if self.how == "fused":
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.how == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
            y = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            if self.bias is not None:
                scores = scores + self.bias * torch.arange(n, dtype=x.dtype)
            y = scores.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1 if self.sizes == "attribute" else c))


class Across(nn.Module):
    """Attention across channels (XCA): the scores are between the channels of a head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.rand(heads, 1, 1) + 0.5)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1).unbind(0)
        scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        return self.proj((scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, n, c))


class Library(nn.Module):
    """Torch's own multi-head attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


class Perceptron(nn.Module):
    """Two linear layers, the first of them gated perhaps."""

    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(width, hidden * (2 if gated else 1)), nn.Linear(hidden, width)
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(functional.glu(x, -1) if self.gated else functional.gelu(x))


class Prenormed(nn.Module):
    """A transformer's block half: norm, body, a layer scale perhaps, and the stream added."""

    def __init__(self, body: nn.Module, width: int, norm: str, scaled: bool) -> None:
        super().__init__()
        self.norm: nn.Module = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "none": lambda width: nn.Identity()}[norm](
            width
        )
        self.body = body
        self.gamma = nn.Parameter(torch.rand(width) + 0.3) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.norm(x))
        return x + (y if self.gamma is None else self.gamma * y)


class Tokens(nn.Module):
    """Feature maps to tokens, through ``body``, and back; with a position table, and with a class token that is left out again."""

    def __init__(
        self, body: nn.Module, width: int, positions: int, table: str, class_token: bool, back: str, window: int
    ) -> None:
        super().__init__()
        self.body, self.width, self.table, self.back, self.window = body, width, table, back, window
        self.token = nn.Parameter(torch.randn(1, 1, width)) if class_token else None
        count = positions + class_token
        if table == "parameter":
            self.positions = nn.Parameter(torch.randn(1, count, width) * 0.5)
        elif table == "embedding":
            self.embedding = nn.Embedding(count, width)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if self.window:
            s = self.window
            t = x.permute(0, 2, 3, 1).view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        else:
            t = x.flatten(2).transpose(1, 2)
        if self.token is not None:
            t = torch.cat([self.token.expand(t.shape[0], -1, -1), t], 1)
        if self.table == "parameter":
            t = t + self.positions
        elif self.table == "embedding":
            t = t + self.embedding(torch.arange(t.shape[1]))
        t = self.body(t)
        if self.token is not None:
            t = t[:, 1:] + t[:, :1]
        if self.window:
            t = t.view(b, h // s, w // s, s, s, c).permute(0, 5, 1, 3, 2, 4)
            return t.reshape(b, c, h, w)
        if self.back == "attribute":
            return t.transpose(1, 2).reshape(b, self.width, h, w)
        return t.permute(0, 2, 1).reshape(b, -1, h, w) if self.back == "open" else t.mT.unflatten(2, (h, w))
