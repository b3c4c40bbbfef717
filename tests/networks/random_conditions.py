"""Building blocks of random architectures that read a further input of the network: numbers of rows, marks, or floats."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 10
BY_NUMBER = (
    *("embedding", "added embedding", "one_hot", "table", "scalars", "selected", "film", "not equal", "below"),
    *("as a float", "rows for every place"),
)
BY_MARK = ("where", "filled", "times", "whole image", "chosen rows")
BY_FLOAT = ("dropout", "mask below a half", "added", "looked up", "level")
CONDITIONS = tuple(
    f"{kind}: {how}" for kind, hows in (("number", BY_NUMBER), ("mark", BY_MARK), ("float", BY_FLOAT)) for how in hows
)


class Conditioned(nn.Module):
    """A body, and what a further input makes of its feature map; beside the block's own input perhaps.

    ``condition`` is one of ``CONDITIONS``. Its input: the number of a row for every image or place, ``[batch]`` or
    ``[batch, height, width]``; a mark for every place or image, boolean; or a float between 0 and 1 likewise.
    """

    def __init__(self, body: nn.Module, width: int, size: int, condition: str, residual: bool) -> None:
        super().__init__()
        self.body, self.size, self.residual = body, size, residual
        self.kind, self.how = condition.split(": ")
        self.rows = nn.Embedding(ROWS, 2 * width if self.how == "film" else width)
        self.table = nn.Parameter(torch.randn(ROWS, width))
        self.scalars = nn.Parameter(torch.randn(ROWS))

    def further_input(self, batch: int, plain: bool) -> Tensor:
        """What the block reads, at random; ``plain`` is what people give as an example: zeros, and every mark set."""
        place = (batch, 1, self.size, self.size)
        if self.kind == "number":
            shape = (batch, self.size, self.size) if self.how == "rows for every place" else (batch,)
            return torch.zeros(shape, dtype=torch.long) if plain else torch.randint(ROWS, shape)
        if self.kind == "mark":
            shape = {"whole image": (batch, 1, 1, 1), "chosen rows": (batch,)}.get(self.how, place)
            return torch.ones(shape, dtype=torch.bool) if plain else torch.rand(shape) < 0.6
        shape = (batch,) if self.how in ("looked up", "level") else place
        values = torch.zeros(shape) if plain else torch.rand(shape)
        if self.how == "dropout":
            values = (values > 0.3) / 0.7 if not plain else torch.ones(shape)
        return values.double()

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        y = self.body(x)
        y = {"number": self._by_number, "mark": self._by_mark, "float": self._by_float}[self.kind](y, given)
        return x + y if self.residual else y

    def _by_number(self, x: Tensor, numbers: Tensor) -> Tensor:
        if self.how == "embedding":
            return x * self.rows(numbers)[:, :, None, None]
        if self.how == "added embedding":
            return x + self.rows(numbers)[..., None, None]
        if self.how == "one_hot":
            return x * (functional.one_hot(numbers, ROWS).to(x.dtype) @ self.table)[:, :, None, None]
        if self.how == "table":
            return x * self.table[numbers].view(x.shape[0], -1, 1, 1)
        if self.how == "scalars":
            return x * self.scalars[numbers].view(-1, 1, 1, 1)
        if self.how == "selected":
            return x * self.scalars.index_select(0, numbers)[:, None, None, None]
        if self.how == "film":
            scale, shift = self.rows(numbers)[:, :, None, None].chunk(2, 1)
            return x * scale + shift
        if self.how == "rows for every place":
            return x * self.rows(numbers).permute(0, 3, 1, 2)
        if self.how == "as a float":
            return x * ((numbers.to(x.dtype) + 1) / ROWS).view(-1, 1, 1, 1)
        open_ = numbers < 5 if self.how == "below" else ~(numbers == 3)
        return x * open_.view(-1, 1, 1, 1)

    def _by_mark(self, x: Tensor, marks: Tensor) -> Tensor:
        if self.how == "where":
            return torch.where(marks, x, torch.zeros_like(x))
        if self.how == "filled":
            return x.masked_fill(~marks, 0.25)
        return x * (marks.view(-1, 1, 1, 1) if self.how == "chosen rows" else marks)

    def _by_float(self, x: Tensor, values: Tensor) -> Tensor:
        if self.how == "mask below a half":
            return x * (values < 0.5)
        if self.how == "added":
            return x + values
        if self.how == "looked up":
            return x * self.table[(values * ROWS).long()][:, :, None, None]
        if self.how == "level":
            return x * torch.bucketize(values, torch.tensor([0.25, 0.5, 0.75])).add(1).view(-1, 1, 1, 1)
        return x * values
