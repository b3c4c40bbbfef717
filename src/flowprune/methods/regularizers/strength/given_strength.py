"""Strengths: a raw coefficient, a share of the task loss, a way over the training, or a share of the force of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowprune.errors import RecipeError


@dataclass(frozen=True)
class Strength:
    """One of ``coefficient``, ``share`` (0.05 for "5%"), ``pull`` and ``pressure`` is given; none where the user gave nothing."""

    given: float | str | None
    coefficient: float | None = None
    share: float | None = None
    pull: float | None = None
    pressure: float | None = None

    @property
    def by_steps(self) -> bool:
        """Whether it can only be told from the optimizer and its steps."""
        return self.pull is not None or self.pressure is not None


def strength_of(given: float | str | None, name: str) -> Strength:
    """Read a strength: None, a coefficient of at least 0, a percentage like "5%", "0.5 pull" or "0.5 pressure".

    Raises:
        RecipeError: for anything else; ``name`` is the argument's name in the message.
    """
    complaint = RecipeError(
        f'{name}={given!r} is no strength; give a share like "5%" or a coefficient like 0.05, or "0.5 pull", "0.5 pressure"'
    )
    if given is None:
        return Strength(None, coefficient=0.0)
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise complaint
    text = given.strip() if isinstance(given, str) else ""
    unit = next((unit for unit in ("%", "pull", "pressure") if text.endswith(unit)), "")
    if isinstance(given, str) and not unit:
        raise complaint
    try:
        number = float(text.removesuffix(unit)) if text else float(given)
    except ValueError:
        raise complaint from None
    if not math.isfinite(number) or number < 0:
        raise complaint
    if not text:
        return Strength(number, coefficient=number)
    if number == 0:
        return Strength(text, coefficient=0.0)
    if unit == "%":
        return Strength(text, share=number / 100)
    return Strength(text, pull=number) if unit == "pull" else Strength(text, pressure=number)
