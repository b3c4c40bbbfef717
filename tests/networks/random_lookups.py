"""Building blocks of random architectures: tables, places and channels that are looked up by numbers which data makes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 8
LOOKUPS = (
    *("embedding", "added embedding", "embedding of places", "table", "gather", "one_hot", "scalar", "index_select"),
    *("permuted places", "gathered places", "sorted channels", "images", "bincount"),
)


class LookedUp(nn.Module):
    """A feature map and what is looked up by a number read off it: always one of ``LEVELS``, for every finite input."""

    def __init__(self, width: int, size: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.read = nn.Conv2d(width, 1, 1)
        self.rows = nn.Embedding(LEVELS, width)
        self.table = nn.Parameter(torch.randn(LEVELS, width))
        self.scalars = nn.Parameter(torch.randn(LEVELS))
        self.places = nn.Parameter(torch.randn(1, 1, size, size))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.read(x)
        if self.how in ("permuted places", "gathered places", "sorted channels", "images"):
            return self._rearranged(x, gate + self.places)
        if self.how == "embedding of places":
            return x + self.rows(_level(gate.squeeze(1))).permute(0, 3, 1, 2)
        level = _level(3 * gate.mean((1, 2, 3)))  # [batch]
        if self.how == "embedding":
            return x * self.rows(level)[:, :, None, None]
        if self.how == "added embedding":
            return x + self.rows(level)[:, :, None, None]
        if self.how == "table":
            return x * self.table[level].unsqueeze(-1).unsqueeze(-1)
        if self.how == "gather":
            return x + self.table.gather(0, level.view(-1, 1).expand(-1, x.shape[1]))[..., None, None]
        if self.how == "one_hot":
            return x * (functional.one_hot(level, LEVELS).to(x.dtype) @ self.table)[..., None, None]
        if self.how == "scalar":
            return x * self.scalars[level].view(-1, 1, 1, 1)
        if self.how == "index_select":
            return x * self.scalars.index_select(0, level).view(-1, 1, 1, 1)
        return x * torch.bincount(level, minlength=LEVELS)[level].to(x.dtype).view(-1, 1, 1, 1)

    def _rearranged(self, x: Tensor, scores: Tensor) -> Tensor:
        flat = x.flatten(2)
        if self.how == "permuted places":
            return flat.index_select(2, scores.flatten(1).mean(0).argsort()).view_as(x)
        if self.how == "gathered places":
            return flat.gather(2, scores.flatten(2).argsort(2).expand_as(flat)).view_as(x)
        if self.how == "images":
            return x + x[scores.flatten(1).amax(1).argsort()]
        return x[:, x.mean((0, 2, 3)).argsort()]


def _level(x: Tensor) -> Tensor:
    return (torch.sigmoid(x) * LEVELS).long().clamp(max=LEVELS - 1)
