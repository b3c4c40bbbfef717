"""Rules made wrong the way one gets them wrong: an order, a stride, a transposition, a reduction overlooked.

Each is wrong in the analysis and in the certificate alike, which is the hardest case: both propagations agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from flowprune.engine.coupling import Analysis
from flowprune.engine.coupling.labels import Block, block_at, without
from flowprune.engine.coupling.propagation import Propagation, Rule
from flowprune.engine.tracing import Graph, Operation
from mutation.faults_in_analysis import silent, with_rule
from mutation.hearing import Saying
from mutation.trial import Mutant

Wrong = Callable[[Rule, Operation, Propagation], None]


def mutants(graph: Graph, said: Sequence[Saying], carrying: Sequence[str]) -> Iterator[Mutant]:
    """Every fault that the network gives occasion for: the operator carries channels, or its rule says what is overlooked."""
    saying = {(entry.operator, entry.method) for entry in said if not entry.by_class}
    grouped = any(operation.argument("groups", 1) > 1 for operation in graph.operations)
    for kind, operators, wrong in FAULTS:
        unheard = _UNHEARD.get(wrong)
        for name in operators:
            if wrong is _depthwise_filters_are_free and not grouped:
                continue
            if any(
                one in carrying if unheard is None else any((one, method) in saying for method in unheard)
                for one in name.split()
            ):
                yield Mutant(f"rule: {kind}", name, partial(with_rule, name, wrong))
    yield Mutant("rule: the model's outputs may shrink", "outputs", _outputs_may_shrink)


def _cat_in_the_wrong_order(right: Rule, operation: Operation, state: Propagation) -> None:
    right(operation, state)
    along = operation.argument("dim", 0) % len(state.output_shape(operation))
    parts = [block_at(state.layout(tensor), along) for tensor in operation.argument("tensors")]
    value = operation.outputs[0]
    if value in state.layouts and all(parts):
        others = tuple(block for block in state.layouts[value] if along not in block.dimensions)
        labels = np.concatenate([part.labels for part in reversed(parts) if part is not None])
        state.layouts[value] = (*others, Block((along,), labels))


def _parts_swapped(right: Rule, operation: Operation, state: Propagation) -> None:
    """The last result of a split gets the first one's channels, and so on."""
    right(operation, state)
    values = [value for value in operation.outputs if value is not None]
    layouts = [state.layouts.get(value, ()) for value in values]
    for value, layout in zip(values, reversed(layouts), strict=True):
        if layout:
            state.layouts[value] = layout


def _first_channels_for_every_part(right: Rule, operation: Operation, state: Propagation) -> None:
    """The offset of the parts is forgotten."""
    right(operation, state)
    dimension = operation.argument("dim", 0) % len(state.shape(operation.argument("self")))
    whole = block_at(state.layout(operation.argument("self")), dimension)
    for value in operation.outputs:
        part = block_at(state.layouts.get(value, ()), dimension) if value is not None else None
        if part is not None and whole is not None and part.labels.ndim == 1:
            assert value is not None
            first = Block(part.dimensions, whole.labels[: len(part.labels)])
            state.layouts[value] = (*without(state.layouts[value], [part]), first)


def _flatten_with_the_wrong_stride(right: Rule, operation: Operation, state: Propagation) -> None:
    """As if positions, not channels, were outermost in memory: channel c at every C-th place."""
    right(operation, state)
    value = operation.outputs[0]
    for block in state.layouts.get(value or -1, ()):
        runs = np.unique(block.labels)
        repeats = block.labels.size // len(runs)
        if repeats > 1 and block.labels.ndim == 1:
            wrong = block.labels.reshape(-1, repeats).T.reshape(-1)
            assert value is not None
            state.layouts[value] = (*without(state.layouts[value], [block]), Block(block.dimensions, wrong))


def _nothing_moves(right: Rule, operation: Operation, state: Propagation) -> None:
    """Dimensions stay where they were."""
    layout = state.layout(operation.argument("self"))
    rank = len(state.output_shape(operation))
    state.set(operation, tuple(block for block in layout if block.dimensions[-1] < rank))


def _depthwise_filters_are_free(right: Rule, operation: Operation, state: Propagation) -> None:
    """A convolution with groups is taken for a dense one: its filters have nothing to do with its input channels."""
    if operation.argument("groups", 1) == 1:
        right(operation, state)
        return
    filters = block_at(state.layout(operation.argument("weight")), 0)
    if filters is not None:
        state.set(operation, (Block((1,), filters.labels),))


def _convolution_reads_nothing(right: Rule, operation: Operation, state: Propagation) -> None:
    """The input's channels are not joined with the weight's."""
    silent("join")(right, operation, state)


def _pad_is_ignored(right: Rule, operation: Operation, state: Propagation) -> None:
    state.set(operation, state.layout(operation.argument("self")))


def _pad_on_the_other_side(right: Rule, operation: Operation, state: Propagation) -> None:
    """All new channels come behind."""
    right(operation, state)
    value = operation.outputs[0]
    for block in state.layouts.get(value or -1, ()):
        pads = operation.argument("pad")
        place = 2 * (len(state.output_shape(operation)) - 1 - block.dimensions[0])
        if place < len(pads) and pads[place]:
            assert value is not None
            moved = Block(block.dimensions, np.roll(block.labels, -pads[place]))
            state.layouts[value] = (*without(state.layouts[value], [block]), moved)


def _norm_of_shifted_channels(right: Rule, operation: Operation, state: Propagation) -> None:
    """The scales and shifts are those of the next channel."""
    _joining(right, operation, state, lambda labels: np.roll(labels, 1, axis=-1))


def _joins_in_reverse(right: Rule, operation: Operation, state: Propagation) -> None:
    """The first channel of one side meets the last of the other."""
    _joining(right, operation, state, lambda labels: labels[..., ::-1])


def _joining(right: Rule, operation: Operation, state: Propagation, change: Callable[[Any], Any]) -> None:
    join = state.join
    state.join = lambda one, other: join(one, change(other))  # type: ignore[method-assign, assignment]
    try:
        right(operation, state)
    finally:
        del state.join  # type: ignore[attr-defined]


def _nothing_stays(right: Rule, operation: Operation, state: Propagation) -> None:
    """What the operator does over channels (a sum, a softmax, a pick by number) is overlooked."""
    silent("freeze")(right, operation, state)


def _numbers_follow(right: Rule, operation: Operation, state: Propagation) -> None:
    """A number in the code is believed to shrink by itself."""
    silent("count", "extent")(right, operation, state)


def _rows_are_free(right: Rule, operation: Operation, state: Propagation) -> None:
    """Groups, heads and halves may lose different numbers."""
    silent("balance")(right, operation, state)


def _pixels_strided(right: Rule, operation: Operation, state: Propagation) -> None:
    """The r x r channels of one pixel block are taken for C apart instead of neighbours."""
    x = operation.argument("self")
    dimension = len(state.shape(x)) - 3
    block = block_at(state.layout(x), dimension)
    if block is None:
        return
    rows = block.labels.reshape(operation.argument("upscale_factor") ** 2, -1).T
    state.join(rows[:, :1], rows)
    state.set(operation, (Block((dimension,), np.ascontiguousarray(rows[:, 0])),))


def _heads_fall_apart(right: Rule, operation: Operation, state: Propagation) -> None:
    """Inside a product of batches nothing is joined: neither heads nor widths."""
    silent("join", "freeze")(right, operation, state)


def _table_of_rows(right: Rule, operation: Operation, state: Propagation) -> None:
    """An index moves the picked rows and forgets the channels behind them."""
    silent("freeze")(right, operation, state)


def _outputs_may_shrink() -> AbstractContextManager[Any]:
    """Nobody says that the model's outputs are fixed."""
    freeze = Analysis.freeze_layout

    def deaf(self: Analysis, layout: Any, reason: str) -> None:
        if "output of the model" not in reason:
            freeze(self, layout, reason)

    return patch.object(Analysis, "freeze_layout", deaf)


_UNHEARD: dict[Wrong, tuple[str, ...]] = {
    _nothing_stays: ("freeze",),
    _numbers_follow: ("count", "extent"),
    _rows_are_free: ("balance",),
    _table_of_rows: ("freeze",),
}
"""What a wrong rule does not say any more; where the right one does not say it either there is no fault."""

_CONVOLUTION = ("aten.convolution",)
_BATCH_NORM = ("aten.native_batch_norm", "aten.cudnn_batch_norm")
_VIEWS = ("aten.view", "aten._unsafe_view", "aten.reshape")
_REDUCTIONS = ("aten.mean aten.sum aten.var aten.amax",)

FAULTS: tuple[tuple[str, tuple[str, ...], Wrong], ...] = (
    ("cat joins in the wrong order", ("aten.cat",), _cat_in_the_wrong_order),
    ("parts of a split swapped", ("aten.split", "aten.split_with_sizes", "aten.unbind"), _parts_swapped),
    (
        "parts of a split all start at the first channel",
        ("aten.split", "aten.split_with_sizes", "aten.slice"),
        _first_channels_for_every_part,
    ),
    ("flatten with the wrong stride", _VIEWS, _flatten_with_the_wrong_stride),
    (
        "a transposition ignored",
        ("aten.t", "aten.transpose", "aten.permute", "aten.squeeze", "aten.unsqueeze"),
        _nothing_moves,
    ),
    ("a grouped convolution treated as dense", _CONVOLUTION, _depthwise_filters_are_free),
    ("a convolution joins nothing", _CONVOLUTION, _convolution_reads_nothing),
    ("a convolution reads in reverse", _CONVOLUTION, _joins_in_reverse),
    ("pad ignored", ("aten.constant_pad_nd",), _pad_is_ignored),
    ("pad on the other side", ("aten.constant_pad_nd",), _pad_on_the_other_side),
    (
        "a norm joined to shifted channels",
        (*_BATCH_NORM, "aten.native_layer_norm", "aten.native_group_norm"),
        _norm_of_shifted_channels,
    ),
    ("a sum joined in reverse", ("aten.add", "aten.add_", "aten.mul"), _joins_in_reverse),
    ("a matrix product joined in reverse", ("aten.mm", "aten.addmm", "aten.bmm"), _joins_in_reverse),
    ("a reduction over channels overlooked", _REDUCTIONS, _nothing_stays),
    ("a softmax over channels overlooked", ("aten._softmax",), _nothing_stays),
    (
        "numbers in the code believed to follow",
        (*_VIEWS, "aten.split_with_sizes", "aten.constant_pad_nd"),
        _numbers_follow,
    ),
    (
        "rows may lose different numbers",
        (*_VIEWS, *_CONVOLUTION, "aten.split", "aten.native_group_norm"),
        _rows_are_free,
    ),
    ("pixels of a shuffle strided", ("aten.pixel_shuffle",), _pixels_strided),
    ("heads fall apart", ("aten.bmm",), _heads_fall_apart),
    ("rows picked by number may leave", ("aten.index", "aten.select", "aten.embedding", "aten.roll"), _table_of_rows),
)
"""Kind, the operators it is tried on, the wrong rule."""
