"""Expressions: where an integer of the code came from, as arithmetic on attributes of modules and sizes of tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Expression = tuple[Any, ...]
"""("attribute", module path, name, position or None) | ("size", value number, dimension) | ("number", n)
| (operator, left, right)."""

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
"""By symbol: what an expression does with its left and right side."""


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
    return int(OPERATORS[expression[0]](left, right))


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
