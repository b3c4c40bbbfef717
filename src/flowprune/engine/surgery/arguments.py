"""How the arguments of one operator compare between the dense and the small pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowprune.engine.tracing import Operation
from flowprune.engine.tracing.operator_kinds import CONVOLUTIONS

_SIZES: dict[str, frozenset[str]] = {
    "aten.view": frozenset({"size"}),
    "aten._unsafe_view": frozenset({"size"}),
    "aten.reshape": frozenset({"shape"}),
    "aten._reshape_alias": frozenset({"size", "stride"}),
    "aten.as_strided_": frozenset({"size", "stride"}),
    "aten.expand": frozenset({"size"}),
    "aten.slice": frozenset({"start", "end"}),
    "aten.split": frozenset({"split_size"}),
    "aten.split_with_sizes": frozenset({"split_sizes"}),
    "aten.constant_pad_nd": frozenset({"pad"}),
    **dict.fromkeys(CONVOLUTIONS, frozenset({"groups"})),
    "aten.native_layer_norm": frozenset({"normalized_shape"}),
    "aten.native_group_norm": frozenset({"C"}),
    "aten.new_zeros": frozenset({"size"}),
    "aten.new_ones": frozenset({"size"}),
    "aten.new_full": frozenset({"size"}),
    "aten.new_empty": frozenset({"size"}),
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
