"""Attention as it is written in the wild loses whole heads, or channels inside them, and equals its silenced twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_shapes import (
    HEADS,
    SHAPES,
    TOKENS,
    WIDTH,
    Fused,
    LinearAttention,
    Network,
    TorchAttention,
    UnevenChunks,
    WindowAttention,
)
from silenced_twin import largest_difference, randomized, silenced_twin

from flowprune.engine.allocation import Plan
from flowprune.errors import ModelError
from flowprune.methods.importance import Random
from flowprune.pruning import plan, prune


def pruned(name: str, seed: int = 0, **options: Any) -> tuple[Plan, Any]:
    """The plan and the small network, after comparing it with its twin."""
    torch.manual_seed(seed)
    dense = UnevenChunks() if name == "UnevenChunks" else Network(SHAPES[name])
    model = randomized(dense).double().eval()
    tokens = torch.randn(3, TOKENS, 5, dtype=torch.float64)
    made = plan(model, tokens[:1], importance=Random(seed=seed), **options)
    small = prune(model, made).eval()
    with torch.no_grad():
        dense_output, twin_output, output = (network(tokens) for network in (model, silenced_twin(model, made), small))
    assert largest_difference(output, twin_output) < 1e-10
    assert largest_difference(dense_output, twin_output) > 1e-6
    return made, small


@pytest.mark.parametrize("name", SHAPES)
def test_half_of_everything_leaves(name: str) -> None:
    made, small = pruned(name, channels=0.5)
    kept = {"PositionMixing": 0.35, "RotaryAttention": 0.31}.get(name, 0.3)
    assert made.params[1] <= kept * made.params[0]
    assert "head.weight" in made.frozen
    assert small.embed.out_features == WIDTH // 2


@pytest.mark.parametrize("name", ["WindowAttention", "TorchAttention", "TalkingHeads", "SelectiveKernels"])
def test_a_budget_of_parameters_is_met_by_steps_of_many_channels(name: str) -> None:
    made, _ = pruned(name, seed=1, params=0.6)
    assert 0.35 * made.params[0] <= made.params[1] <= 0.6 * made.params[0]


@pytest.mark.parametrize("name", ["WindowAttention", "TorchAttention"])
def test_the_stream_keeps_the_width_of_the_heads_that_stay(name: str) -> None:
    _, small = pruned(name, channels=0.5)
    attention = small.blocks[0].attention if name == "TorchAttention" else small.blocks[0]
    assert attention.num_heads == HEADS // 2
    if isinstance(small.blocks[0], TorchAttention):
        assert attention.embed_dim == WIDTH // 2 == attention.kdim == attention.vdim
    else:
        assert isinstance(small.blocks[0], WindowAttention)
        assert attention.qkv.out_features == 3 * WIDTH // 2 and attention.table.shape == (2 * TOKENS - 1, HEADS // 2)


def test_chunks_of_unequal_size_keep_their_proportions() -> None:
    made, small = pruned("UnevenChunks", channels=0.5)
    assert small.embed.out_features == 11
    assert [part.in_features for part in small.parts] == [4, 4, 3]
    assert set(made.frozen) == {"head.weight"}


def test_inside_heads_every_head_keeps_as_many_channels() -> None:
    made, small = pruned("LinearAttention", channels=0.5, heads="inside")
    attention = small.blocks[0]
    assert isinstance(attention, LinearAttention)
    assert attention.num_heads == HEADS and attention.qkv.out_features == 3 * WIDTH // 2
    gone = made.removed["blocks.0.qkv.weight"][0]
    per_head = [sum(index // (WIDTH // HEADS) == row for index in gone) for row in range(3 * HEADS)]
    assert per_head == [WIDTH // HEADS // 2] * (3 * HEADS)


@pytest.mark.parametrize("name", ["Fused", "WindowAttention", "TorchAttention"])
def test_inside_heads_a_scale_that_is_computed_from_the_width_keeps_it(name: str) -> None:
    made, small = pruned(name, channels=0.5, heads="inside")
    name_of_width = "blocks.0.attention.in_proj_weight" if name == "TorchAttention" else "blocks.0.qkv.weight"
    assert 0 not in made.removed.get(name_of_width, {})
    assert small.hidden[0][0].out_features == 16  # the rest goes on shrinking
    if isinstance(small.blocks[0], Fused):
        assert "instead of" in made.frozen[name_of_width]


def test_an_unknown_way_to_prune_heads_is_refused() -> None:
    with pytest.raises(ModelError, match='use "whole", "inside" or'):
        plan(Network(Fused), torch.randn(1, TOKENS, 5), importance=Random(), channels=0.5, heads="half")
