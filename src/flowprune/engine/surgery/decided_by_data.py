"""Operators that return as much as the values ask for: the boxes of a detector, the entries under a mask.

The weights' cut changes the values, so the small model finds other boxes than the dense one, and sizes may differ from there on
without anything being wrong. What carries channels is compared all the same. Such passes only run on real tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flowprune.engine.coupling.labels import Array, Layout
from flowprune.engine.tracing import Operation


def is_number(argument: Any) -> bool:
    """Whether an argument is a number, or several."""
    if isinstance(argument, (list, tuple)):
        return all(map(is_number, argument))
    return isinstance(argument, (int, float))


def fits(found: tuple[int, ...], expected: tuple[int, ...], layout: Layout) -> bool:
    """Whether a shape is the expected one in the dimensions that carry channels."""
    carried = {dimension for block in layout for dimension in block.dimensions}
    return len(found) == len(expected) and all(found[d] == expected[d] for d in carried)


def first_that_reads(
    operations: Iterable[Operation], layouts: dict[int, Layout], may_leave: Callable[[Array], bool]
) -> Operation | None:
    """The first operation that reads channels of which some may leave."""
    for operation in operations:
        for value in operation.reads:
            if any(may_leave(block.labels) for block in layouts.get(value, ())):
                return operation
    return None
