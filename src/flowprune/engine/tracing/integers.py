"""Integers that remember where they came from.

A size written into a reshape, a split or a pad is the main reason why a pruned model's forward breaks. Guessing which attribute
it was by its value is ambiguous; so while a model is traced, the integer attributes of its modules are ``Integer`` objects, which
carry the expression that made them through Python arithmetic. Torch forgets the subclass once it is in C++; the recorder
therefore keeps the Python-level arguments of the running call and matches sequences of equal length and equal values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload

from flowprune.engine.tracing.expressions import OPERATORS, Expression
from flowprune.engine.tracing.graph import Operation


@dataclass
class Noticed:
    """What code has done to integers beside computing others.

    Attributes:
        equal: the expressions of two that were compared and found equal.
        limits: the expressions of a limit and of what was compared with it, divided by it, or cut at it.
        plain: the expression of every one that became a number without provenance, or was compared with one.
    """

    equal: list[tuple[Expression, Expression]] = field(default_factory=list)
    limits: list[tuple[Expression, Expression]] = field(default_factory=list)
    plain: list[Expression] = field(default_factory=list)


_noticed: ContextVar[Noticed | None] = ContextVar("noticed", default=None)


@contextmanager
def noticing() -> Iterator[Noticed]:
    """Inside, what code does to integers is noted down."""
    found = Noticed()
    token = _noticed.set(found)
    try:
        yield found
    finally:
        _noticed.reset(token)


class Integer(int):
    """An ``int`` with the expression it was computed by."""

    expression: Expression

    def __new__(cls, number: int, expression: Expression) -> Integer:
        """An integer equal to ``number``, computed by ``expression``."""
        self = super().__new__(cls, number)
        self.expression = expression
        return self

    def __int__(self) -> int:
        return _plain(self)

    def __float__(self) -> float:
        return float(_plain(self))

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        return pow(_plain(self), exponent, modulus)

    def __rpow__(self, base: Any, modulus: Any = None) -> Any:
        return pow(base, _plain(self), modulus)

    def __truediv__(self, other: Any) -> Any:
        note_limit(other, self.expression)
        return _plain(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / _plain(self)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __neg__(self) -> Integer:
        return Integer(-int.__int__(self), ("-", ("number", 0), self.expression))

    def __pos__(self) -> Integer:
        return self

    __trunc__ = __floor__ = __ceil__ = __pos__

    def __round__(self, digits: Any = None) -> int:
        return self if digits is None else round(_plain(self), digits)

    def __rshift__(self, places: int) -> int:
        return self // (1 << places)

    def __lshift__(self, places: int) -> int:
        return self * (1 << places)

    def __deepcopy__(self, memo: dict[int, Any]) -> Integer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int.__int__(self),))


def _plain(number: Integer) -> int:
    """The number alone: from here on nobody knows what becomes of it."""
    if (noticed := _noticed.get()) is not None:
        noticed.plain.append(number.expression)
    return int.__int__(number)


def note_limit(limit: object, of: Expression) -> None:
    """Note that a number divides, or bounds a part of, what an expression says."""
    if isinstance(limit, Integer) and (noticed := _noticed.get()) is not None:
        noticed.limits.append((limit.expression, of))


def _compared(number: Integer, other: object) -> None:
    noticed = _noticed.get()
    if noticed is None or not isinstance(other, (int, float)):
        return
    if isinstance(other, Integer):
        if number.expression != other.expression:  # a size is always equal to itself
            noticed.limits += [(number.expression, other.expression), (other.expression, number.expression)]
        if int.__eq__(number, other):
            noticed.equal.append((number.expression, other.expression))
    elif not sys._getframe(2).f_globals.get("__name__", "").startswith("torch.nn."):
        # torch's own layers only check arguments, and that there is more than one value to take statistics of
        noticed.plain.append(number.expression)


def _comparison(name: str) -> Callable[[Integer, object], bool]:
    compare: Callable[[int, object], bool] = getattr(int, name)

    def method(self: Integer, other: object) -> bool:
        _compared(self, other)
        return compare(self, other)

    return method


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Integer, _name, _comparison(_name))


def expression_of(number: int) -> Expression:
    """The expression of an ``Integer``; a plain number's own."""
    return number.expression if isinstance(number, Integer) else ("number", int(number))


def _arithmetic(symbol: str, compute: Callable[[int, int], int]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(self: Integer, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented if not isinstance(other, float) else compute(_plain(self), other)  # type: ignore[arg-type]
        if symbol in ("//", "%"):
            note_limit(other, self.expression)
        numbers = int.__int__(self), int.__int__(other)
        return Integer(compute(*numbers), (symbol, self.expression, expression_of(other)))

    def reflected(self: Integer, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented if not isinstance(other, float) else compute(other, _plain(self))  # type: ignore[arg-type]
        numbers = int.__int__(other), int.__int__(self)
        return Integer(compute(*numbers), (symbol, expression_of(other), self.expression))

    return forward, reflected


for _symbol, _method in (("+", "add"), ("-", "sub"), ("*", "mul"), ("//", "floordiv"), ("%", "mod")):
    _forward, _reflected = _arithmetic(_symbol, OPERATORS[_symbol])
    setattr(Integer, f"__{_method}__", _forward)
    setattr(Integer, f"__r{_method}__", _reflected)


def mark_attributes(modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Replace the integer attributes of a shadow's modules, by path, by ``Integer`` objects (also inside lists and tuples).

    Modules of ``torch.nn`` itself are left out: surgery knows their attributes by their class.
    """
    for path, module in modules:
        if type(module).__module__.startswith("torch.nn.modules"):
            continue
        for name, held in vars(module).items():
            if type(held) is int:
                vars(module)[name] = Integer(held, ("attribute", path, name, None))
            elif type(held) in (list, tuple) and held and all(type(element) is int for element in held):
                marked = [Integer(number, ("attribute", path, name, place)) for place, number in enumerate(held)]
                vars(module)[name] = type(held)(marked)


SLICING = frozenset({"__getitem__", "__setitem__"})
CUTTING = frozenset({"split", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"})
"""Python-level calls that cut a tensor at positions."""


def integers_given(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], cut: int | None) -> list[tuple[int, ...]]:
    """The runs of integers that a Python-level call is given; what it cuts the tensor of value number ``cut`` by is noted."""
    if cut is not None:
        for bound, dimension in _bounds(name, args, kwargs):
            note_limit(bound, ("size", cut, dimension))
    return list(_integer_sequences((*args, *kwargs.values())))


def _bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """What a call cuts a tensor by, and along which dimension. The operator may not show it: what lies beyond the end is as good as
    the end."""
    if name in SLICING:
        yield from _bounds_of_slices(args[0], args[1])
    else:
        along = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        given = [*args[1:2], *(number for key, number in kwargs.items() if key != "dim")]
        yield from ((number, along % args[0].dim()) for number in given)


def _bounds_of_slices(tensor: torch.Tensor, index: Any) -> Iterator[tuple[Any, int]]:
    parts = index if isinstance(index, tuple) else (index,)
    taking = [part for part in parts if part is not None and not isinstance(part, bool) and part is not Ellipsis]
    taken = [part.dim() if isinstance(part, torch.Tensor) and part.dtype is torch.bool else 1 for part in taking]
    dimension = 0
    for part in parts:
        if part is Ellipsis:
            dimension += tensor.dim() - sum(taken)
        elif part is not None and not isinstance(part, bool):
            if isinstance(part, slice):
                yield from ((b, dimension) for b in (part.start, part.stop, part.step))
            dimension += part.dim() if isinstance(part, torch.Tensor) and part.dtype is torch.bool else 1


def _integer_sequences(arguments: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    """The runs of integers among call arguments: list arguments, integers given bare, and the bounds of slices.

    A single number is only worth knowing where it has a provenance; runs are kept whole, because they are matched by their length.
    """
    bare = tuple(argument for argument in arguments if _is_integer(argument))
    if bare:
        yield bare
    for argument in arguments:
        if _is_integer(argument):
            if isinstance(argument, Integer):
                yield (argument,)
        elif isinstance(argument, slice):
            yield from ((bound,) for bound in (argument.start, argument.stop) if isinstance(bound, Integer))
        elif isinstance(argument, (list, tuple)):
            if argument and all(_is_integer(element) for element in argument):
                yield tuple(argument)
            else:
                yield from (run for run in _integer_sequences(tuple(argument)) if len(run) == 1)


def _is_integer(argument: Any) -> bool:
    return isinstance(argument, int) and not isinstance(argument, bool)


def origins_of(operation: Operation, sequences: list[tuple[int, ...]]) -> dict[str, tuple[Any, ...]]:
    """Which integer arguments of ``operation`` have a known expression: argument name -> one expression an element."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in _names_of_numbers(operation.function):
        given = operation.argument(name)
        if isinstance(given, bool) or given is None:
            continue
        wanted = (given,) if isinstance(given, int) else given
        if not isinstance(wanted, tuple) or not wanted or not all(isinstance(number, int) for number in wanted):
            continue
        for sequence in sequences:
            numbers = map(int.__int__, sequence)  # compared as plain ones, which is not the code's doing
            if len(sequence) == len(wanted) and all(a in (b, -1) for a, b in zip(numbers, wanted, strict=True)):
                found[name] = tuple(expression_of(number) for number in sequence)
                break
    return found


@lru_cache(maxsize=4096)
def _names_of_numbers(function: OpOverload) -> tuple[str, ...]:
    """The arguments that can be an integer or several; among them tensors, in whose place a number may stand."""
    others = ("Tensor", "bool", "float", "str", "Generator", "Device", "Layout")
    return tuple(
        argument.name
        for argument in function._schema.arguments
        if str(argument.type) == "Tensor" or not any(other in str(argument.type) for other in others)
    )
