"""Which tensors of a pass share memory, and which of that memory is written to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch._ops import OpOverload

from flowprune.engine.tracing import Graph, Operation, Reference

_SHARES_UNSAID = frozenset({"aten._unsafe_view", "aten._reshape_alias"})
"""Operators that return a view though their schema does not say so."""


@dataclass(frozen=True)
class Memory:
    """The memory of a pass.

    Attributes:
        root: value number -> the first value in the same memory.
        written: the roots of memory that an operator writes to.
    """

    root: dict[int, int]
    written: frozenset[int]


def memory_of(graph: Graph) -> Memory:
    """Follow views and in-place operators through a pass, by what the operators' schemas say of themselves."""
    root = {value.number: value.number for value in graph.values}
    written: set[int] = set()
    for operation in graph.operations:
        for value in written_by(operation):
            written.add(root[value])
        shared = _shared_by(operation)
        for output in operation.outputs:
            if output is not None and shared:
                root[output] = root[shared[0]]
    return Memory(root, frozenset(written))


def is_in_evaluation(operation: Operation) -> bool:
    """Whether an operator has two modes, and runs in that of evaluation: it draws nothing then, and writes nothing down."""
    for argument in operation.function._schema.arguments:
        if argument.name in ("training", "train"):
            return operation.argument(argument.name, argument.default_value) is False
    return False


def written_by(operation: Operation) -> list[int]:
    """The values that an operation writes into."""
    if is_in_evaluation(operation):
        return []
    return _values_at(operation, _places(operation.function)[0])


def is_view_in_place(operation: Operation) -> bool:
    """Whether all that an in-place operator changes is how its tensor is read (``unsqueeze_``)."""
    return any(str(tag).endswith("inplace_view") for tag in operation.function.tags)


def _shared_by(operation: Operation) -> list[int]:
    """The values in whose memory an operation's outputs lie."""
    if operation.name in _SHARES_UNSAID:
        return list(operation.reads[:1])
    _, shares, returns = _places(operation.function)
    return _values_at(operation, shares) if returns else []


@lru_cache(maxsize=4096)
def _places(function: OpOverload) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Names of the arguments that are written to; of those that share memory with what is returned; and whether any is."""
    schema = function._schema
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    shares = tuple(a.name for a in schema.arguments if a.alias_info is not None)
    return written, shares, any(r.alias_info is not None for r in schema.returns)


def _values_at(operation: Operation, names: tuple[str, ...]) -> list[int]:
    found: list[int] = []
    for name in names:
        argument: Any = operation.argument(name)
        for element in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(element, Reference):
                found.append(element.value)
    return found
