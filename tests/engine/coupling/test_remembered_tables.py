"""A table that a forward makes once and remembers outside its modules does not keep the model from being pruned."""

from __future__ import annotations

from functools import lru_cache

import torch
from silenced_twin import largest_difference, silenced_twin
from torch import Tensor, nn

import flowprune as fp
from flowprune.methods.importance import L2


class Positions(nn.Module):
    """Adds what it looks up at places that are computed in the first forward, whichever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 16), nn.Linear(16, 4)
        self.table = nn.Embedding(9, 16)
        self.noise = nn.Dropout(0.5)
        self.places = lru_cache(maxsize=4)(self._places)

    @staticmethod
    def _places(count: int) -> Tensor:
        offsets = torch.arange(count)
        return (offsets[:, None] - offsets[None, :]).abs().sum(0).remainder(9)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(self.noise(torch.relu(self.into(rows)) + self.table(self.places(rows.shape[1]))))


def test_a_table_made_in_the_first_forward_only() -> None:
    torch.manual_seed(0)
    model, rows = Positions().double().eval(), torch.randn(2, 5, 6, dtype=torch.float64)
    plan = fp.plan(model, rows, importance=L2(), channels=0.5)
    assert set(plan.frozen) == {"out.weight", "table.weight"} and plan.params[1] < 0.6 * plan.params[0]
    assert model.places(5).device.type == "cpu"
    small = fp.prune(model, plan)
    assert small.into.out_features == small.table.embedding_dim == 8
    assert largest_difference(small(rows), silenced_twin(model, plan)(rows)) < 1e-12
