"""What a small model's pass must be: its tensors carry the dense model's channels less those that a plan takes, and its operators
are given what the dense model's are, but for sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.allocation import Plan
from flowprune.engine.coupling import Analysis, Coupling
from flowprune.engine.coupling.labels import Array, Block, Layout, reduced, survivors
from flowprune.engine.tracing import Operation
from flowprune.engine.tracing.operator_kinds import CONVOLUTIONS


class MismatchError(Exception):
    """The small model is not the planned cut; the message says how."""


class PlannedCut:
    """What a plan takes of a model's channels, in both passes.

    Attributes:
        coupling: the dense model's groups.
        removed: [labels]: whether each component leaves (by its smallest label).
        frozen: [labels]: whether each component has to stay.
    """

    def __init__(self, plan: Plan, coupling: Coupling, removed: NDArray[np.bool_]) -> None:
        self.coupling = coupling
        self.removed = removed
        self.frozen = np.zeros(coupling.notes.labels, dtype=bool)
        for freeze in coupling.notes.freezes:
            self.frozen[coupling.roots[freeze.labels]] = True
        self._plan = plan
        self._sliced: dict[tuple[str, int], Array] = {}

    def may_leave(self, labels: Array) -> bool:
        """Whether any of the dense model's channels could leave."""
        return not self.frozen[self.coupling.roots[labels]].all()

    def left(self, labels: Array) -> Array:
        """The components of the dense model's channels that stay."""
        roots = self.coupling.roots[labels]
        return roots[~self.removed[roots]]

    def sliced(self, name: str, dimension: int, labels: Array) -> Array:
        """The components that a parameter's dimension carries after the plan's slices have left."""
        if (name, dimension) not in self._sliced:
            carried = self.coupling.roots[labels]
            leaving = self._plan.removed.get(name, {}).get(dimension)
            self._sliced[name, dimension] = carried if leaving is None else np.delete(carried, leaving)
        return self._sliced[name, dimension]


class PredictedPass:
    """The layouts and shapes that one pass of the small model must have."""

    def __init__(self, planned: PlannedCut, dense: Analysis) -> None:
        self._planned = planned
        self._dense = dense
        self._kept: dict[int, Block] = {}  # by identity: a block is shared by every tensor it flows to unchanged

    def sliced_layout(self, value: int, name: str) -> Layout:
        """What a parameter carries after the plan's slices left."""
        blocks = self._dense.layouts.get(value, ())
        return tuple(Block((d,), self._planned.sliced(name, d, b.labels)) for b in blocks for d in b.dimensions)

    def layout(self, value: int) -> Layout:
        """What a tensor must carry.

        Raises:
            MismatchError: rows of a block would be of different lengths.
        """
        return tuple(self._kept.get(id(block)) or self._keep(block) for block in self._dense.layouts.get(value, ()))

    def _keep(self, block: Block) -> Block:
        carried = Block(block.dimensions, self._planned.coupling.roots[block.labels], block.inner)
        kept = survivors(carried, self._planned.removed)
        if kept is None:
            raise MismatchError("what stays of a reshaped block is not rectangular")
        left = self._kept[id(block)] = Block(block.dimensions, kept, block.inner)
        return left

    def shape(self, value: int, layout: Layout) -> tuple[int, ...]:
        """The shape of a tensor that carries ``layout``."""
        shape = list(self._dense.graph.values[value].shape)
        for block in layout:
            for dimension, size in zip(block.dimensions, block.labels.shape, strict=True):
                shape[dimension] = size
        return tuple(shape)

    def that_may_leave(self, layout: Layout) -> Layout:
        """Where data decides sizes, it may decide how many rows a reshape puts into one dimension with channels. Those that are
        frozen are then not compared."""
        return tuple(block for block in layout if self._planned.may_leave(block.labels))


def same_layout(predicted: Layout, found: Layout) -> bool:
    """Whether two layouts say the same. Axes along which all channels are one are dropped first: in the dense pass such labels are
    joined but still different numbers, in the small one they are equal."""
    if len(predicted) == len(found) and all(
        left is right or (left.dimensions == right.dimensions and np.array_equal(left.labels, right.labels))
        for left, right in zip(predicted, found, strict=True)
    ):
        return True

    def as_map(layout: Layout) -> dict[tuple[int, ...], Array]:
        plain = (reduced(block.dimensions, block.labels) for block in layout)
        return {block.dimensions: block.labels for block in plain if block is not None}

    left, right = as_map(predicted), as_map(found)
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


_SIZES: dict[str, frozenset[str]] = {
    **dict.fromkeys(("aten.view", "aten._unsafe_view", "aten.expand"), frozenset({"size"})),
    **dict.fromkeys(("aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty"), frozenset({"size"})),
    "aten.reshape": frozenset({"shape"}),
    "aten._reshape_alias": frozenset({"size", "stride"}),
    "aten.as_strided_": frozenset({"size", "stride"}),
    "aten.slice": frozenset({"start", "end"}),
    "aten.split": frozenset({"split_size"}),
    "aten.split_with_sizes": frozenset({"split_sizes"}),
    "aten.constant_pad_nd": frozenset({"pad"}),
    **dict.fromkeys(CONVOLUTIONS, frozenset({"groups"})),
    "aten.native_layer_norm": frozenset({"normalized_shape"}),
    "aten.native_group_norm": frozenset({"C"}),
}
"""Arguments that say how large something is. What they did shows in the results' shapes and labels, which are checked."""


def same_form(dense: Operation, small: Operation) -> bool:
    """Whether both calls give the same arguments by position and by name."""
    return len(dense.arguments) == len(small.arguments) and dense.keywords.keys() == small.keywords.keys()


def altered_arguments(dense: Operation, small: Operation) -> Iterator[tuple[str, Any, Any]]:
    """Name, dense and small value of the arguments that differ, sizes left out; the calls are of the same form."""
    sizes = _SIZES.get(dense.name, frozenset())
    names = [argument.name for argument in dense.function._schema.arguments]
    pairs = [
        *zip(names, dense.arguments, small.arguments, strict=False),
        *((name, dense.keywords[name], small.keywords[name]) for name in dense.keywords),
    ]
    for name, before, after in pairs:
        if name not in sizes and not _same(before, after):
            yield name, before, after


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, float) and isinstance(after, float):
        return before == after or (before != before and after != after)
    return bool(type(before) is type(after) and before == after)
