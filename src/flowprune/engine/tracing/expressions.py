"""Expressions: where an integer of the code came from, as arithmetic on attributes of modules and sizes of tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

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

    def held_by(self, model: nn.Module) -> int:
        """The integer there."""
        held = getattr(model.get_submodule(self.module), self.name)
        return int(held if self.position is None else held[self.position])

    def put_into(self, model: nn.Module, number: int) -> None:
        """Put another integer there."""
        owner = model.get_submodule(self.module)
        held: Any = number
        if self.position is not None:
            before = getattr(owner, self.name)
            held = type(before)(number if place == self.position else old for place, old in enumerate(before))
        setattr(owner, self.name, held)

    def __str__(self) -> str:
        element = "" if self.position is None else f"[{self.position}]"
        return (f"{self.module}.{self.name}" if self.module else f"the model's {self.name}") + element


def leaves(expression: Expression) -> Iterator[Expression]:
    """The attributes, sizes and numbers that an expression is made of, in order."""
    if expression[0] in OPERATORS:
        for part in expression[1:]:
            yield from leaves(part)
    else:
        yield expression


def attributes_in(expression: Expression) -> list[Attribute]:
    """The attributes an expression depends on, in order."""
    return [Attribute(*leaf[1:]) for leaf in leaves(expression) if leaf[0] == "attribute"]


def places_in(expression: Expression) -> list[tuple[int, int]]:
    """(value number, dimension) of every size in an expression, in order."""
    return [(int(leaf[1]), int(leaf[2])) for leaf in leaves(expression) if leaf[0] == "size"]


def widths_said(found: Iterable[tuple[Expression, Expression]]) -> list[tuple[Attribute, int, int]]:
    """(attribute, value number, dimension) of every attribute that was found equal to the size of a tensor."""
    said: dict[tuple[Attribute, int, int], None] = {}
    for pair in found:
        for one, other in (pair, pair[::-1]):
            if one[0] == "attribute" and other[0] == "size":
                said[Attribute(*one[1:]), int(other[1]), int(other[2])] = None
    return list(said)


def dimensions_in(expression: Expression) -> list[tuple[int, int]]:
    """(value number, dimension) of every size that an expression multiplies or divides; none where sizes are added up."""
    if expression[0] in ("*", "//"):
        return dimensions_in(expression[1]) + dimensions_in(expression[2])
    return places_in(expression) if expression[0] == "size" else []


def is_derived_from_sizes(expression: Expression) -> bool:
    """Whether the integer follows the sizes of tensors by itself: at least one size in it, and no attribute."""
    return bool(places_in(expression)) and not attributes_in(expression)


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
    if expression[0] not in ("*", "//") or places_in(expression):
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
