"""Random numbers of Python's and numpy's that a forward draws: alike in every trace, noted, and the user's own are untouched."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.tracing import observe, trace


class Dropped(nn.Module):
    """A middle layer is left out while training, as ``coin`` says."""

    def __init__(self, coin: Callable[[], float]) -> None:
        super().__init__()
        self.coin = coin
        self.first, self.middle, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if not self.training or self.coin() < 0.5:
            x = self.middle(x)
        return self.last(x)


COINS: dict[str, Callable[[], float]] = {"python": lambda: random.random(), "numpy": lambda: np.random.uniform()}


@pytest.mark.parametrize("coin", COINS.values(), ids=COINS)
def test_a_layer_dropped_by_chance_is_pruned_like_any_other(coin: Callable[[], float]) -> None:
    images = torch.randn(2, 3, 4, 4)
    random.seed(2)  # 0.96, then 0.95 and 0.06: with numbers of the user's the passes would part
    np.random.seed(0)  # 0.55, 0.72, 0.60, 0.54 and 0.42
    for _ in range(6):
        made = fp.plan(Dropped(coin), images, importance=fp.importance.L2(), channels=0.5)
        assert set(made.frozen) == {"last.weight"}
        coin()


def test_the_generators_of_the_user_go_on_where_they_stood() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x) * (1 + random.random()) * float(np.random.rand()))

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    model, inputs = Drawing(), torch.ones(2, 3)
    torch.manual_seed(5)
    fp.prune(model, inputs, importance=fp.importance.L2(), channels=0.5)
    observe(model, inputs, [(0, 0)])
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


@pytest.mark.parametrize(
    "draw", [random.random, np.random.rand, lambda: np.random.randint(3), lambda: random.gauss(0, 1)]
)
def test_a_pass_knows_whether_numbers_were_drawn(draw: Callable[[], float]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * draw() if self.training else self.layer(x)

    graphs = [trace(Scaled(), torch.ones(2, 3), training=training) for training in (False, True)]
    assert [graph.draws for graph in graphs] == [False, True]


def test_what_torch_drops_differs_from_batch_to_batch() -> None:
    class AlwaysDropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 64)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.layer(x), training=True)

    model, inputs = AlwaysDropping(), torch.ones(1, 3)
    graph = trace(model, inputs)
    last = (graph.operations[-1].index, 0)
    first, second = (observe(model, inputs, [last], graph)[last] for _ in range(2))
    assert not torch.equal(first, second)
