"""The budget shared out anew in every round, on the network that the round before has left and trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.methods.allocators import RateDistortion

INPUT = torch.zeros(1, 1, 8, 8)


class Watched(RateDistortion):
    """Notes what is left in every round, and of which network."""

    def __init__(self) -> None:
        super().__init__([torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))], points=3)
        self.rounds: list[tuple[int, int, float]] = []

    def __call__(self, problem: AllocationProblem) -> Levels:
        levels = super().__call__(problem)
        dense = problem.probe(levels * 0)
        self.rounds.append((problem.target, problem.count(levels), float(dense.linear.weight.detach().mean())))
        return levels


@pytest.mark.parametrize(("kind", "importance"), [("macs", fp.importance.L1()), ("params", fp.importance.Random())])
def test_each_round_keeps_the_same_factor_of_the_network_as_it_is_then(kind: str, importance: object):
    torch.manual_seed(0)
    model = fp.models.create("resnet8", in_channels=1, width=8).eval()
    dense, watched = getattr(fp.measure(model, INPUT), kind), Watched()

    def finetune(small: nn.Module, step: int) -> None:
        with torch.no_grad():
            small.linear.weight.fill_(float(step))

    small = fp.prune_iteratively(
        model, INPUT, steps=3, finetune=finetune, importance=importance, allocator=watched, **{kind: 0.4}
    )
    assert getattr(fp.measure(small, INPUT), kind) == watched.rounds[-1][1] <= 0.4 * dense
    assert len(watched.rounds) == 3  # no curve is measured for nothing
    for step, (target, left, _) in enumerate(watched.rounds, 1):
        assert left <= target == pytest.approx(dense * 0.4 ** (step / 3), rel=1e-3)
    assert [mean for _, _, mean in watched.rounds[1:]] == [1.0, 2.0]  # curves are of the network that was trained since
