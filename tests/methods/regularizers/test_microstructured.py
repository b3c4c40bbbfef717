"""Blocks of zeros and of one absolute value: the projection, the training to it, and what it takes to store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowprune.engine.interfaces import Training
from flowprune.errors import ArtifactError, FlowpruneError, ModelError, RecipeError
from flowprune.methods.codecs.micro_blocks_codec import MicroBlocks
from flowprune.methods.masks.micro_blocks import BlockShape, projected, structure_of
from flowprune.methods.regularizers.microstructured import MicroStructured

SHAPES = st.sampled_from([(4, 8), (5, 3, 3, 3), (3, 1, 3, 3), (7, 2), (4, 4, 1, 1)])


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 4), st.integers(1, 4), st.floats(0, 0.6), st.floats(0, 0.4), st.integers(0, 99))
def test_projecting_twice_is_projecting_once(shape: Any, p: int, q: int, prune: float, unify: float, seed: int) -> None:
    weight, block = drawn(shape, seed), BlockShape(p, q)
    assert torch.equal(block.weight(block.blocks(weight), weight.shape), weight)
    once = projected(weight, block, prune, unify)
    assert torch.equal(projected(once, block, prune, unify), once)
    structure = structure_of(weight, block, prune, unify)
    number = len(structure.pruned)
    assert int(structure.pruned.sum()) == int(prune * number + 1e-6)
    assert (
        int(structure.unified.sum()) == int(unify * number + 1e-6) and not (structure.pruned & structure.unified).any()
    )
    for tile, inside, one in zip(block.blocks(once), block.inside(weight), structure.unified, strict=True):
        if one:
            assert tile[inside].abs().unique().numel() == 1


def test_the_value_of_a_block_and_the_choice_are_the_best_ones_by_brute_force() -> None:
    weight, block = drawn((4, 6), 0), BlockShape(2, 3)
    one = projected(weight, block, 0.0, 1.0)
    loss = float((weight - one).square().sum())
    for tile in range(4):
        for change in (-0.05, 0.05):
            blocks = block.blocks(one)
            blocks[tile] *= 1 + change
            assert float((weight - block.weight(blocks, weight.shape)).square().sum()) > loss
    sizes = block.blocks(weight).square().sum(1)
    assert structure_of(weight, block, 0.5, 0.0).pruned.nonzero().flatten().tolist() == sorted(
        sizes.argsort()[:2].tolist()
    )


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 4), st.integers(1, 4), st.sampled_from([np.float32, np.float64]), st.integers(0, 99))
def test_the_codec_gives_every_bit_back_and_counts_exactly(shape: Any, p: int, q: int, kind: Any, seed: int) -> None:
    block = BlockShape(p, q)
    structure = structure_of(drawn(shape, seed), block, 0.4, 0.3)
    array = structure.held(drawn(shape, seed), block).numpy().astype(kind)
    codec = MicroBlocks(p=p, q=q)
    parts = codec.encode(array)
    assert codec.decode(parts).tobytes() == array.tobytes() and codec.decode(parts).shape == array.shape
    word, entries = 8 * array.itemsize, block.inside(torch.zeros(shape)).sum(1)
    kinds = np.unpackbits(parts.arrays["kinds"], count=2 * len(entries)).reshape(-1, 2) @ np.array([2, 1])
    expected = sum({0: 0, 1: word + int(n), 2: word * int(n)}[int(one)] for one, n in zip(kinds, entries, strict=True))
    assert codec.bits(parts) == expected + 2 * len(entries)
    assert (kinds[structure.pruned.numpy()] == 0).all() and (kinds[structure.unified.numpy()] <= 1).all()


def test_odd_values_and_damage() -> None:
    codec = MicroBlocks(p=1, q=2)
    array = np.array([[-0.0, 0.0, np.nan, 1.0, -2.0, 2.0, np.inf, -np.inf]], np.float32)
    parts = codec.encode(array)
    assert codec.decode(parts).tobytes() == array.tobytes()
    parts.arrays["values"][0] += 1
    with pytest.raises(ArtifactError, match="check sum"):
        codec.decode(parts)
    with pytest.raises(FlowpruneError, match="another codec"):
        codec.encode(np.array([1, 2]))
    for wrong in (MicroBlocks, BlockShape):
        with pytest.raises(FlowpruneError, match="side of a block"):
            wrong(p=0)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise, self.attention = nn.Conv2d(8, 8, 3, groups=8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.depthwise(self.grouped(self.stem(x).relu()).relu()).flatten(2).mT
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        out: torch.Tensor = self.head(self.hidden(tokens.mean(1)).relu())
        return out


def train(model: nn.Module, method: MicroStructured, optimizer: Any, begin: int, end: int) -> None:
    method.begin(Training(optimizer, 1, 16))
    for step in range(begin, end):
        draws = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 3, 6, 6, generator=draws), torch.arange(8) % 4
        task = nn.functional.cross_entropy(model(x), y)
        loss = task + method.penalty(task.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(optimizer, lambda: torch.zeros(()))


def test_admm_draws_the_weights_to_blocks_which_are_held_and_stored_small() -> None:
    torch.manual_seed(0)
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options: dict[str, Any] = {"prune": 0.5, "unify": 0.6, "rho": (0.1, 10.0), "every": 2}
    method = MicroStructured(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
    far = method.epoch_end({})["distance"]
    train(model, method, optimizer, 0, 7)
    assert method.epoch_end({})["distance"] < far
    again = MicroStructured(model, **options)
    again.load_state_dict(method.state_dict())
    train(model, again, optimizer, 7, 16)
    outcome = again.finish()
    assert outcome.masks is not None and outcome.weights is not None
    assert set(outcome.masks) == {
        "grouped.weight",
        "depthwise.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "hidden.weight",
    }
    tensors = dict(model.named_parameters())
    codec = MicroBlocks()
    for name, mask in outcome.masks.items():
        assert not tensors[name][~mask].any() and not mask.all()
        weight = tensors[name].detach().numpy()
        assert codec.bits(codec.encode(weight)) < 0.55 * 32 * weight.size
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    whole = MicroStructured(model, **options)
    train(model, whole, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5), 0, 16)
    whole.finish()
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    with pytest.raises(ArtifactError, match="no state"):
        again.load_state_dict({"step": 1})


def test_options_that_are_none_are_refused() -> None:
    for options in ({"prune": 1.8}, {"p": 0}, {"rho": (0.1, 0.01)}, {"every": 0}, {"until": 2}):
        with pytest.raises((RecipeError, FlowpruneError)):
            MicroStructured(Network(), **options)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="begin"):
        MicroStructured(Network()).after_step(
            torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), lambda: torch.zeros(())
        )
