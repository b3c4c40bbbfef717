"""Random residual networks with random dead filters, cut to random budgets: never a wrong model, and never a wrong count."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from branch_networks import Block, Linear, Network, branch_twin, images, kill, ready
from silenced_twin import largest_difference
from torch import nn

import flowprune as fp
from flowprune.engine.branches.ends import find_ends
from flowprune.engine.tracing import filter_layers, trace
from flowprune.errors import UnreachableBudgetError


def drawn(random: Random) -> tuple[nn.Module, dict[str, list[int]]]:
    """A network, and which ends of its branches are dead."""
    torch.manual_seed(random.randrange(10**6))
    wide = random.choice((4, 8))
    blocks: list[nn.Module] = []
    for _ in range(random.randint(2, 6)):
        inner, kind = random.choice((3, 6, 10)), random.random()
        if kind < 0.3:
            blocks.append(Linear(wide, inner))
        elif kind < 0.75:
            blocks.append(Block(wide, inner, wide))
        else:
            wider = wide + random.choice((0, 2, wide))
            blocks.append(
                Block(
                    wide,
                    inner,
                    wider,
                    random.choice((1, 2)),
                    "conv" if wider == wide else random.choice(("pad", "conv")),
                )
            )
            wide = wider
    first = next(module for module in blocks[0].modules() if isinstance(module, nn.Conv2d)).in_channels
    model = ready(Network(blocks, wide, first))
    dead: dict[str, list[int]] = {}
    ends, _ = find_ends(model, trace(model, images(1)), filter_layers(model, images(1)))
    for end in ends:
        share = random.choice((0.0, 0.3, 0.6, 0.9, 1.0, 1.0))
        if chosen := [channel for channel in range(end.layer.filters) if random.random() < share]:
            dead[end.module] = chosen
            kill(model.get_submodule(end.module), chosen, random.choice((0.0, 0.4, -0.4)))
    return model, dead


@pytest.mark.parametrize("part", range(6))
def test_random_residual_networks_equal_their_twins(part: int) -> None:
    changed = 0
    for seed in range(10 * part, 10 * part + 10):
        random = Random(seed)
        model, dead = drawn(random)
        x = images(2)
        budget: dict[str, Any] = random.choice(
            ({"threshold": 1e-6}, {"macs": 0.5}, {"params": 0.4}, {"channels": 0.6}, {"macs": 0.6, "round_to": 2})
        )
        try:
            plan = fp.plan(
                model, x[:1], importance=fp.importance.Random(seed=seed), branches="always", fold_tolerance=0, **budget
            )
        except UnreachableBudgetError:
            continue
        small = fp.prune(model, plan).eval()
        expected = model if "threshold" in budget else branch_twin(model, plan, dead)
        with torch.no_grad():
            scale = max(1.0, float(expected(x).abs().max()))
            assert largest_difference(expected(x), small(x)) < 1e-10 * scale, (seed, budget)
        measured = fp.measure(small, x[:1])
        assert (measured.macs, measured.params) == (plan.macs[1], plan.params[1]), (seed, budget)
        changed += len(plan.branches)
    assert changed > 10
