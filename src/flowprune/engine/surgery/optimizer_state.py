"""What an optimizer remembers of one parameter, cut the way the parameter was.

Momentum and second moments have the parameter's shape. Factored ones (Adafactor's rows and columns, one accumulator a dimension)
have its size in some dimensions only; which they are is read off the shapes, and where these allow two answers that differ,
nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from flowprune.engine.surgery.cut import slice_tensor

Removed = Mapping[int, tuple[int, ...]]
"""dimension of a tensor -> the indices that leave."""


class UncutStateError(Exception):
    """State of which nobody can tell what stays; the message is its name in the optimizer's state."""


def cut_state(state: Mapping[str, Any], shape: Sequence[int], removed: Removed) -> dict[str, Any]:
    """The state of a parameter of ``shape`` after ``removed`` has left it; tensors are copies.

    Raises:
        UncutStateError: if an entry has sizes that cannot be told to be the parameter's.
    """
    if not removed:
        return {key: _copied(value) for key, value in state.items()}
    factors = _rows_and_columns(state, shape)
    cut: dict[str, Any] = {}
    for key, value in state.items():
        if key in factors and isinstance(value, torch.Tensor):
            cut[key] = _sliced(value, [factors[key]], removed)
        elif isinstance(value, (list, tuple)) and any(isinstance(entry, torch.Tensor) for entry in value):
            cut[key] = _one_a_dimension(value, shape, removed)
        elif isinstance(value, torch.Tensor) and value.numel() != 1:
            cut[key] = _sliced(value, _places(value.shape, shape), removed)
        else:
            cut[key] = _copied(value)
        if cut[key] is None and value is not None:
            raise UncutStateError(key)
    return cut


def has_other_shapes(state: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Whether there is more than numbers and tensors of the parameter's shape, so that the layout may depend on its sizes."""
    tensors = [t for value in state.values() for t in (value if isinstance(value, (list, tuple)) else (value,))]
    return any(isinstance(t, torch.Tensor) and t.numel() != 1 and t.shape != tuple(shape) for t in tensors)


def same_layout(state: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Whether two states have the same entries, of the same shapes."""
    return state.keys() == fresh.keys() and all(_shapes(state[key]) == _shapes(fresh[key]) for key in state)


def _shapes(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_shapes(entry) for entry in value]
    return tuple(value.shape) if isinstance(value, torch.Tensor) and value.numel() != 1 else ()


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _places(sizes: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[int | None, ...]]:
    """Which of the parameter's dimensions a state's may be, one entry each, in order; None for one that was reduced to size 1."""
    if len(sizes) == len(shape):
        if all(size in (whole, 1) for size, whole in zip(sizes, shape, strict=True)):
            yield tuple(None if size == 1 else dimension for dimension, size in enumerate(sizes))
        return
    for chosen in combinations(range(len(shape)), len(sizes)):
        if all(shape[dimension] == size for dimension, size in zip(chosen, sizes, strict=True)):
            yield chosen


def _sliced(
    value: torch.Tensor, places: Iterator[tuple[int | None, ...]] | Sequence[tuple[int | None, ...]], removed: Removed
) -> torch.Tensor | None:
    """``value`` without what leaves; None where no place fits, or several that lose other indices."""
    ways: list[dict[int, tuple[int, ...]]] = []
    for place in places:
        way = {own: removed[of] for own, of in enumerate(place) if of is not None and of in removed}
        if way not in ways:
            ways.append(way)
    return slice_tensor(value, ways[0], None) if len(ways) == 1 else None


def _rows_and_columns(state: Mapping[str, Any], shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The dimensions of factored second moments that have lost the reduced one (transformers' and timm's Adafactor).

    Rows have lost the later, columns the earlier of two neighbours: the last two dimensions, or the first two. Taken together
    their shapes say more than each alone; a square matrix is no riddle.
    """
    found: dict[str, tuple[int, ...]] = {}
    rank = len(shape)
    for row in [key for key in state if "row" in key and key.replace("row", "col") in state]:
        column = row.replace("row", "col")
        ways = []
        for first in {0, rank - 2} if rank > 1 else ():
            without = [tuple(d for d in range(rank) if d != lost) for lost in (first + 1, first)]
            if all(
                isinstance(state[key], torch.Tensor) and tuple(state[key].shape) == tuple(shape[d] for d in left)
                for key, left in zip((row, column), without, strict=True)
            ):
                ways.append(without)
        if len(ways) == 1:
            found[row], found[column] = ways[0]
    return found


def _one_a_dimension(values: Sequence[Any], shape: Sequence[int], removed: Removed) -> list[torch.Tensor] | None:
    """A list with a vector or a square matrix for every dimension of the parameter (what Kronecker-factored ones keep)."""
    fits = len(values) == len(shape) and all(
        isinstance(value, torch.Tensor) and set(value.shape) == {size}
        for value, size in zip(values, shape, strict=False)
    )
    if not fits:
        return None
    return [
        slice_tensor(value, dict.fromkeys(range(value.dim()), removed[dimension]) if dimension in removed else {}, None)
        for dimension, value in enumerate(values)
    ]
