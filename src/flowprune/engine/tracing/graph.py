"""The record of one forward pass: a straight-line program of ATen operations over numbered values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch._ops import OpOverload

from flowprune.engine.tracing.expressions import Attribute, Expression

# Nobody changes these two, but thousands are made, and a class declared frozen takes three times as long to make.


@dataclass(slots=True, unsafe_hash=True)
class Reference:
    """A tensor among an operation's arguments: the number of its value."""

    value: int


@dataclass(slots=True, unsafe_hash=True)
class Value:
    """A tensor of the pass. An operation that writes in place makes a new value of the same tensor."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@lru_cache(maxsize=4096)
def _described(function: OpOverload) -> tuple[str, tuple[str, ...]]:
    """An operator's name without its overload, and those of its arguments."""
    return str(function.overloadpacket), tuple(argument.name for argument in function._schema.arguments)


@dataclass(slots=True)
class Operation:
    """One ATen operator call.

    Attributes:
        index: position in the pass, counted from 0.
        function: the operator overload that ran.
        arguments: positional arguments, every tensor replaced by a ``Reference`` (also inside lists).
        keywords: keyword arguments, likewise.
        outputs: value number of every tensor returned, in order (flattened); None where a None was returned.
        module: dotted path of the innermost module running; "" for the root.
        integers: where the code took an integer argument from, by argument name (see ``tracing.integers``).
        python: name of the Python-level torch function that ran it ("chunk" and "split" are one operator).
        name: the operator without its overload: ``aten.convolution``.
        reads: value numbers of the tensor arguments, in order, with repetitions.
        argument: ``argument(name, default=None)`` is the argument called ``name`` in the operator's schema, or ``default`` where
            the call left it out. All are told apart once, because every rule asks for some.
    """

    index: int
    function: OpOverload
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: tuple[int | None, ...]
    module: str
    integers: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    python: str = ""
    name: str = field(init=False)
    reads: tuple[int, ...] = field(init=False, repr=False)
    argument: Callable[..., Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.name, names = _described(self.function)
        read: list[int] = []
        _collect((*self.arguments, *self.keywords.values()), read)
        self.reads = tuple(read)
        self.argument = {**dict(zip(names, self.arguments, strict=False)), **self.keywords}.get


def _collect(arguments: tuple[Any, ...], read: list[int]) -> None:
    for argument in arguments:
        kind = type(argument)
        if kind is Reference:
            read.append(argument.value)
        elif kind is tuple or kind is list:
            _collect(argument, read)


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of one module: what went in, what came out, which operations ran inside (``first <= index < last``)."""

    path: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    first: int
    last: int


@dataclass
class Graph:
    """One forward pass.

    Attributes:
        operations: every ATen operation, in order.
        values: every tensor, by number.
        inputs, outputs: value numbers of the model's tensor inputs and outputs, flattened.
        parameters: value number -> dotted name of the parameter or buffer (the first of its names).
        aliases: every dotted name of a parameter or buffer -> the name used here (tied parameters share one).
        escaped: value number -> the call that read a tensor's numbers past all operators (``Tensor.numpy``).
        calls: every module call, in the order in which they returned.
        equalities: (attribute, value number, dimension) of every attribute that code found equal to the size of a tensor.
        constants: value number -> a tensor that is neither a parameter nor made by an operator, but a plain attribute of a module
            or written down in the code.
        uninitialised: values that are memory nobody had written to.
        replaced: names of parameters and buffers that the forward puts another tensor in place of.
        counts: whether the forward changes numbers that its modules hold.
        limits: the expressions (``tracing.integers``) of an integer, and of one that was compared with it, divided by it or cut
            at it.
        plain: the expressions of integers that became plain numbers or floats, or were compared with some.
        draws: whether the forward drew from Python's ``random`` or numpy's global generator: a plain number of this pass, or what
            became of it, may be another one the next time.
        training: the mode it was traced in.
        tensors: the kind it was traced on, "meta", "fake" or "real".
    """

    operations: list[Operation] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    parameters: dict[int, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    calls: list[ModuleCall] = field(default_factory=list)
    escaped: dict[int, str] = field(default_factory=dict)
    equalities: list[tuple[Attribute, int, int]] = field(default_factory=list)
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    uninitialised: set[int] = field(default_factory=set)
    replaced: frozenset[str] = frozenset()
    limits: list[tuple[Expression, Expression]] = field(default_factory=list)
    plain: list[Expression] = field(default_factory=list)
    draws: bool = False
    counts: bool = False
    training: bool = False
    tensors: str = "meta"

    _links: tuple[int, dict[int, Operation], dict[int, list[Operation]]] | None = field(
        default=None, repr=False, compare=False
    )

    def producers(self) -> dict[int, Operation]:
        """Value number -> the operation that made it."""
        return self._linked()[1]

    def consumers(self) -> dict[int, list[Operation]]:
        """Value number -> the operations that read it, in order."""
        return self._linked()[2]

    def _linked(self) -> tuple[int, dict[int, Operation], dict[int, list[Operation]]]:
        """Both ways, worked out once (and again should the pass have gone on since)."""
        if self._links is None or self._links[0] != len(self.operations):
            producers = {value: made for made in self.operations for value in made.outputs if value is not None}
            consumers: dict[int, list[Operation]] = {}
            for operation in self.operations:
                for value in dict.fromkeys(operation.reads):
                    consumers.setdefault(value, []).append(operation)
            self._links = len(self.operations), producers, consumers
        return self._links
