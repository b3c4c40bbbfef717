"""What code does to the integers of a pass beside computing others: it compares them, divides by them, or forgets their origin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

Expression = tuple[Any, ...]
"""("attribute", module path, name, position or None) | ("size", value number, dimension) | ("number", n)
| (operator, left, right)."""


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


def noticed_now() -> Noticed | None:
    """Where to note down; None outside of ``noticing``."""
    return _noticed.get()
