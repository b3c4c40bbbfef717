"""Widths that are something else, too: a limit of positions, or a number behind a place where data decides sizes.

The certificate compares the passes of the example inputs. What such a number does besides shows on other inputs only, or cannot be
told from what the data does; so the channels that it counts stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from flowprune.engine.coupling.dense_propagation import Analysis
from flowprune.engine.coupling.labels import block_at
from flowprune.engine.coupling.propagation import place_of
from flowprune.engine.tracing import Operation, Reference
from flowprune.engine.tracing.data_decides import decides_by_data
from flowprune.engine.tracing.expressions import Expression, attributes_in, dimensions_in, places_in

_CUTTING = frozenset({"aten.slice", "aten.split", "aten.split_with_sizes"})
_SIZES = frozenset({"size", "shape"})
"""Arguments that give one size a dimension of the result."""
_SHOWN = frozenset({"normalized_shape", "groups", "pad", "C", "stride"})
"""Arguments that must fit other tensors' sizes, which are compared wherever channels are."""


def note_other_uses(analysis: Analysis) -> None:
    """Note what must not follow a cut, or must stay, because of what else the pass does with the integers it is made by."""
    graph = analysis.graph
    for limit, of in graph.limits:
        _note_limit(analysis, limit, of)
    if graph.tensors == "meta":
        return  # where data decides sizes, nothing runs without any
    first = next((o.index for o in graph.operations if decides_by_data(o, graph)), None)
    if first is None:
        return
    for expression in graph.plain:
        _hold(analysis, expression, "their number is used, or compared with, as a plain one where data decides sizes")
    for operation in graph.operations[first:]:
        for dimension, expression in _integers(operation):
            if not _is_compared(operation, dimension, expression, analysis):
                place = place_of(operation)
                _hold(analysis, expression, f"their number is an argument where data decides sizes ({place})")


def _note_limit(analysis: Analysis, limit: Expression, of: Expression) -> None:
    """What limits a number of positions: an attribute must not follow a cut, and a width alone must stay."""
    limiting = [block_at(analysis.layouts.get(value, ()), dimension) for value, dimension in places_in(limit)]
    limited = [block_at(analysis.layouts.get(value, ()), dimension) for value, dimension in places_in(of)]
    if not any(block is None for block in limited):
        return
    for attribute in attributes_in(limit):
        analysis.hold(attribute, "positions are cut at it, divided by it or compared with it, too")
    if None not in limiting and not any(limited) and not attributes_in(of):
        # else a batch times heads is meant, or the like
        for block in limiting:
            if block is not None:
                analysis.freeze(block.labels, "positions are cut at their number, divided by it or compared with it")


def _hold(analysis: Analysis, expression: Expression, reason: str) -> None:
    """What an expression counts stays: the channels whose sizes are in it, and the attributes' own."""
    for value, dimension in places_in(expression):
        block = block_at(analysis.layouts.get(value, ()), dimension)
        if block is not None:
            analysis.freeze(block.labels, reason)
    for attribute in attributes_in(expression):
        analysis.hold(attribute, reason)


def _integers(operation: Operation) -> Iterator[tuple[int | None, Expression]]:
    """The integers that an operator is given whose origin is known, and of which dimension of the result they are the size."""
    for argument, expressions in operation.integers.items():
        for place, expression in enumerate(expressions):
            if argument not in _SHOWN:
                yield (place if argument in _SIZES else None), expression


def _is_compared(operation: Operation, dimension: int | None, expression: Expression, analysis: Analysis) -> bool:
    """Whether what the integer does is compared by the certificate, or matched with the channels while the plan is made: it is the
    size of a dimension that carries channels, and of sizes no sum, and nothing that attributes are in, too."""
    if places_in(expression) and (attributes_in(expression) or not dimensions_in(expression)):
        return False
    if operation.name in _CUTTING:
        return _along_channels(operation, analysis)
    made = operation.outputs[0] if operation.outputs else None
    if dimension is None or made is None:
        return False
    return block_at(analysis.layouts.get(made, ()), dimension) is not None


def _along_channels(operation: Operation, analysis: Analysis) -> bool:
    """Whether an operator cuts a tensor along a dimension that carries channels."""
    x = operation.argument("self")
    if not isinstance(x, Reference):
        return False
    rank = len(analysis.graph.values[x.value].shape)
    return block_at(analysis.layouts.get(x.value, ()), operation.argument("dim", 0) % rank) is not None
