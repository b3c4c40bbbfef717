"""Reshapes, survivors and components against naive references."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprune.engine.coupling.labels import Block, components, reduced, segments, survivors
from flowprune.engine.coupling.rules.shape import reshaped

sizes = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@st.composite
def reshape_pairs(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes with one product: the prime factors of a number, cut at different places."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 5]), min_size=1, max_size=7))

    def grouped() -> tuple[int, ...]:
        shape, current = [], 1
        for factor in factors:
            current *= factor
            if draw(st.booleans()):
                shape.append(current)
                current = 1
        return (*shape, current)

    return grouped(), grouped()


@given(reshape_pairs())
def test_segments_cover_both_shapes_with_equal_products(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    source, target = pair
    runs = segments(source, target)
    assert [d for left, _ in runs for d in left] == list(range(len(source)))
    assert [d for _, right in runs for d in right] == list(range(len(target)))
    for left, right in runs:
        assert math.prod(source[d] for d in left) == math.prod(target[d] for d in right)


class Silent:
    """A propagation that only notes what is frozen."""

    def __init__(self) -> None:
        self.frozen: list[np.ndarray] = []

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        self.frozen.append(labels)

    def balance(self, rows: np.ndarray) -> None:
        pass


@settings(max_examples=300)
@given(reshape_pairs(), st.data())
def test_reshaped_labels_sit_where_numpy_puts_them(
    pair: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    """Reference: label every element of the whole tensor, let numpy reshape it."""
    source, target = pair
    labelled = [d for d, size in enumerate(source) if size > 1]
    if not labelled:
        return
    dimension = data.draw(st.sampled_from(labelled))
    labels = np.arange(100, 100 + source[dimension])
    everywhere = Block((dimension,), labels).over(range(len(source)), source).reshape(target)
    state = Silent()
    layout = reshaped(state, (Block((dimension,), labels),), source, target)  # type: ignore[arg-type]
    assert not state.frozen
    (block,) = layout
    assert np.array_equal(block.over(range(len(target)), target), everywhere)


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_components_equal_a_naive_union_find(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % count, b % count) for a, b in pairs]
    sets = [{i} for i in range(count)]
    for a, b in pairs:
        left, right = (next(s for s in sets if i in s) for i in (a, b))
        if left is not right:
            sets.remove(right)
            left |= right
    expected = [min(next(s for s in sets if i in s)) for i in range(count)]
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    assert components(count, array[:, 0], array[:, 1]).tolist() == expected


@given(st.integers(1, 4), st.integers(1, 5), st.sets(st.integers(0, 19)))
def test_survivors_are_rectangular_or_none(rows: int, columns: int, gone: set[int]) -> None:
    labels = np.arange(rows * columns).reshape(rows, columns)
    removed = np.array([i in gone for i in range(20)])
    kept = [[c for c in row if c not in gone] for row in labels.tolist()]
    kept = [row for row in kept if row]
    result = survivors(Block((0, 1), labels), removed)
    turned = survivors(Block((0, 1), labels.T, inner=0), removed)
    assert (turned is None) == (result is None) and (result is None or np.array_equal(turned.T, result))
    if len({len(row) for row in kept}) > 1:
        assert result is None
    else:
        assert result is not None and result.tolist() == kept


def test_constant_axes_are_dropped() -> None:
    labels = np.broadcast_to(np.arange(3)[None, :, None], (2, 3, 4))
    block = reduced((1, 2, 3), labels)
    assert block is not None and block.dimensions == (2,) and block.labels.tolist() == [0, 1, 2]
    assert reduced((0, 1), np.zeros((2, 2), dtype=np.int64)) is None
