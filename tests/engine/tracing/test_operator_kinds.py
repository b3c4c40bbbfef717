"""Operators are told apart by kind in one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from flowprune.engine.tracing import Graph, Operation, trace
from flowprune.engine.tracing.operator_kinds import (
    adds_activations,
    is_activation,
    is_addition,
    is_batch_norm,
    is_convolution,
    is_layer,
    is_product,
    normalizes_maps,
    rectifier,
)


class Block(nn.Module):
    """One operator of every kind, and additions of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.groups = nn.GroupNorm(2, 4)
        self.clip = nn.ReLU6()
        self.shift = nn.Parameter(torch.ones(2, 4, 5, 5))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.hardtanh(self.norm(self.convolution(x)))
        y = self.clip(self.groups(y + x)) + self.shift
        return self.head(y.mean((2, 3)) + 1)


def count(graph: Graph, kind: Callable[[Operation], object]) -> int:
    return sum(bool(kind(operation)) for operation in graph.operations)


@pytest.mark.parametrize("training", [False, True])
def test_every_operator_is_of_its_kind(training: bool) -> None:
    graph = trace(Block(), torch.randn(2, 4, 5, 5), training=training)
    assert [count(graph, kind) for kind in (is_convolution, is_product, is_batch_norm)] == [1, 1, 1]
    assert [count(graph, kind) for kind in (is_layer, normalizes_maps, is_activation)] == [2, 2, 2]
    assert [found for found in map(rectifier, graph.operations) if found] == ["relu6"]
    assert count(graph, is_addition) == 2  # the number is no tensor
    assert count(graph, lambda operation: adds_activations(operation, graph)) == 1
