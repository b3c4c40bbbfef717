"""Integers that remember where they came from.

A size written into a reshape, a split or a pad is the main reason why a pruned model's forward breaks. Guessing which attribute
it was by its value is ambiguous; so while a model is traced, the integer attributes of its modules are ``Integer`` objects, which
carry the expression that made them through Python arithmetic. Torch forgets the subclass once it is in C++; the recorder
therefore keeps the Python-level arguments of the running call and matches sequences of equal length and equal values.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from flowprune.engine.tracing.noticing import Expression as Expression
from flowprune.engine.tracing.noticing import noticed_now


class Integer(int):
    """An ``int`` with the expression it was computed by."""

    expression: Expression

    def __new__(cls, number: int, expression: Expression) -> Integer:
        """An integer equal to ``number``, computed by ``expression``."""
        self = super().__new__(cls, number)
        self.expression = expression
        return self

    def __eq__(self, other: object) -> bool:
        _compared(self, other)
        return int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        _compared(self, other)
        return int.__ne__(self, other)

    __hash__ = int.__hash__

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
    if (noticed := noticed_now()) is not None:
        noticed.plain.append(number.expression)
    return int.__int__(number)


def note_limit(limit: object, of: Expression) -> None:
    """Note that a number divides, or bounds a part of, what an expression says."""
    if isinstance(limit, Integer) and (noticed := noticed_now()) is not None:
        noticed.limits.append((limit.expression, of))


def _compared(number: Integer, other: object) -> None:
    noticed = noticed_now()
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


for _name in ("__lt__", "__le__", "__gt__", "__ge__"):
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


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
for _symbol, _method in (("+", "add"), ("-", "sub"), ("*", "mul"), ("//", "floordiv"), ("%", "mod")):
    _forward, _reflected = _arithmetic(_symbol, _OPERATORS[_symbol])
    setattr(Integer, f"__{_method}__", _forward)
    setattr(Integer, f"__r{_method}__", _reflected)


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module: ``model.get_submodule(module).name``, or its element at ``position``."""

    module: str
    name: str
    position: int | None = None

    def __str__(self) -> str:
        element = "" if self.position is None else f"[{self.position}]"
        return (f"{self.module}.{self.name}" if self.module else f"the model's {self.name}") + element


def attributes_in(expression: Expression) -> list[Attribute]:
    """The attributes an expression depends on, in order."""
    if expression[0] == "attribute":
        return [Attribute(*expression[1:])]
    if expression[0] in ("number", "size"):
        return []
    return attributes_in(expression[1]) + attributes_in(expression[2])


def widths_said(found: Iterable[tuple[Expression, Expression]]) -> list[tuple[Attribute, int, int]]:
    """(attribute, value number, dimension) of every attribute that was found equal to the size of a tensor."""
    said: dict[tuple[Attribute, int, int], None] = {}
    for pair in found:
        for one, other in (pair, pair[::-1]):
            if one[0] == "attribute" and other[0] == "size":
                said[Attribute(*one[1:]), int(other[1]), int(other[2])] = None
    return list(said)


def sizes_in(expression: Expression) -> list[int]:
    """Value numbers of the tensors whose sizes an expression depends on."""
    if expression[0] == "size":
        return [int(expression[1])]
    if expression[0] in ("number", "attribute"):
        return []
    return sizes_in(expression[1]) + sizes_in(expression[2])


def places_in(expression: Expression) -> list[tuple[int, int]]:
    """(value number, dimension) of every size in an expression."""
    if expression[0] == "size":
        return [(int(expression[1]), int(expression[2]))]
    if expression[0] in ("number", "attribute"):
        return []
    return places_in(expression[1]) + places_in(expression[2])


def dimensions_in(expression: Expression) -> list[tuple[int, int]]:
    """(value number, dimension) of every size that an expression multiplies or divides; none where sizes are added up."""
    if expression[0] == "size":
        return [(int(expression[1]), int(expression[2]))]
    if expression[0] not in ("*", "//"):
        return []
    return dimensions_in(expression[1]) + dimensions_in(expression[2])


def is_derived_from_sizes(expression: Expression) -> bool:
    """Whether the integer follows the sizes of tensors by itself: at least one size in it, and no attribute."""
    if expression[0] == "size":
        return True
    if expression[0] in ("number", "attribute"):
        return False
    return not attributes_in(expression) and any(map(is_derived_from_sizes, expression[1:]))


def evaluate(expression: Expression, number_of: Callable[[Attribute], int]) -> int:
    """The integer an expression of attributes and numbers stands for."""
    if expression[0] == "attribute":
        return number_of(Attribute(*expression[1:]))
    if expression[0] == "number":
        return int(expression[1])
    left, right = (evaluate(part, number_of) for part in expression[1:])
    return int(_OPERATORS[expression[0]](left, right))


def solved_for_first(
    expression: Expression, number_of: Callable[[Attribute], int]
) -> tuple[Attribute, Fraction] | None:
    """(attribute, times): the first attribute in a product or ratio of attributes and numbers is ``times`` its value, if the others
    keep their numbers. None for other expressions.

    >>> solved_for_first(("//", ("attribute", "", "width", None), ("number", 4)), lambda attribute: 8)
    (Attribute(module='', name='width', position=None), Fraction(4, 1))
    """
    if expression[0] == "attribute":
        return Attribute(*expression[1:]), Fraction(1)
    if expression[0] not in ("*", "//") or sizes_in(expression):
        return None
    left, right = expression[1:]
    if attributes_in(left):
        solved, other = solved_for_first(left, number_of), evaluate(right, number_of)
        times = Fraction(other) if expression[0] == "//" else Fraction(1, other)
        return None if solved is None else (solved[0], solved[1] * times)
    if expression[0] == "*" and attributes_in(right):
        solved = solved_for_first(right, number_of)
        return None if solved is None else (solved[0], solved[1] / evaluate(left, number_of))
    return None


def in_words(number: int, expression: Expression) -> str:
    """An integer that does not follow a cut, and where it comes from, to end a sentence with.

    >>> in_words(8, ("//", ("attribute", "body", "width", None), ("number", 2)))
    '8, which the code computes from body.width'
    """
    names = dict.fromkeys(map(str, attributes_in(expression)))
    if names:
        return f"{number}, which the code computes from {' and '.join(names)}"
    return f"{number}, a number written in the code, kept outside of its modules, or made by int() or from floats"


def mark_attributes(model: nn.Module) -> None:
    """Replace the integer attributes of a shadow's modules by ``Integer`` objects (also inside lists and tuples).

    Modules of ``torch.nn`` itself are left out: surgery knows their attributes by their class.
    """
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.modules"):
            continue
        for name, held in vars(module).items():
            if type(held) is int:
                vars(module)[name] = Integer(held, ("attribute", path, name, None))
            elif type(held) in (list, tuple) and held and all(type(element) is int for element in held):
                marked = [Integer(number, ("attribute", path, name, place)) for place, number in enumerate(held)]
                vars(module)[name] = type(held)(marked)
