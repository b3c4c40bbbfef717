"""What holds the blocks of a random architecture together: a row of them, and heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from random_conditions import Conditioned
from torch import Tensor, nn


class Network(nn.Module):
    """Blocks in a row, and one or two heads; the second one runs in training only, perhaps.

    Every ``Conditioned`` block takes one further argument of the forward, in their order.
    """

    def __init__(self, body: list[nn.Module], heads: list[nn.Module], output: str) -> None:
        super().__init__()
        self.body, self.heads, self.output = nn.Sequential(*body), nn.ModuleList(heads), output

    def forward(self, x: Tensor, *further: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        given = iter(further)
        for number, block in enumerate(self.body):
            if number == len(self.body) // 2:
                middle = x
            x = block(x, next(given)) if isinstance(block, Conditioned) else block(x)
        if self.output == "one":
            return self.heads[0](x)
        if self.output == "auxiliary" and not self.training:
            return {"out": self.heads[0](x)}
        results = (self.heads[0](x), self.heads[1](middle))
        return dict(zip(("out", "second"), results, strict=True)) if self.output == "auxiliary" else results


class Head(nn.Module):
    """Five outputs, by pooling or flattening, at sizes from attributes, shapes, or numbers in the code."""

    def __init__(self, width: int, size: int, how: str) -> None:
        super().__init__()
        self.how, self.features = how, width * size * size
        across = how in ("flatten", "view", "attribute", "number")
        self.layer = nn.Conv2d(width, 5, 1) if how == "map" else nn.Linear(self.features if across else width, 5)
        if how == "gated features":
            self.enter = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
            self.gate, self.beside = nn.Linear(width, 1), nn.Linear(width, 5)
        number = self.features
        self.numbered: Callable[[Tensor], Tensor] = lambda x: x.reshape(-1, number)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "map":
            return self.layer(x)
        if self.how == "gated features":
            x = self.enter(x.mean((2, 3)))
            return self.layer(x * (self.gate(x) > 0).to(x.dtype)) + self.beside(x)
        if self.how == "flatten":
            return self.layer(torch.flatten(x, 1))
        if self.how == "view":
            return self.layer(x.reshape(x.size(0), -1))
        if self.how == "attribute":
            return self.layer(x.reshape(-1, self.features))
        if self.how == "number":
            return self.layer(self.numbered(x))
        return self.layer(x.amax((2, 3)) if self.how == "largest" else x.mean((2, 3)))
