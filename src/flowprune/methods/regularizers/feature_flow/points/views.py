"""Tensors that are one feature in another shape: a stream of tokens that a block lays out as a map and back (Swin)."""

from __future__ import annotations

from flowprune.engine.tracing import Graph, Operation

_VIEWS = frozenset(("aten.view", "aten._unsafe_view", "aten.alias"))


def is_view(operation: Operation) -> bool:
    """Whether the operation's result has its input's elements in their order."""
    return operation.name in _VIEWS


def views_of(graph: Graph, value: int) -> list[int]:
    """The values that are views of ``value``, and views of those, nearest first."""
    consumers = graph.consumers()
    found = [value]
    for each in found:  # grows while it is read
        found += [
            operation.outputs[0]
            for operation in consumers.get(each, [])
            if is_view(operation) and operation.outputs[0] is not None
        ]
    return found[1:]


def viewed(producers: dict[int, Operation], value: int) -> int:
    """What ``value`` is a view of in the end; itself if it is none."""
    while value in producers and is_view(producers[value]):
        value = producers[value].reads[0]
    return value
