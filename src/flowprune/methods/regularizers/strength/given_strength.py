"""Strengths: a raw coefficient, or a share of the task loss to calibrate it by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowprune.errors import RecipeError


@dataclass(frozen=True)
class Strength:
    """Either ``coefficient`` or ``share`` (0.05 for "5%") is given; neither where the user gave nothing."""

    given: float | str | None
    coefficient: float | None = None
    share: float | None = None


def strength_of(given: float | str | None, name: str) -> Strength:
    """Read a strength: None, a coefficient of at least 0, or a percentage like "5%".

    Raises:
        RecipeError: for anything else; ``name`` is the argument's name in the message.
    """
    complaint = RecipeError(f'{name}={given!r} is no strength; give a share like "5%" or a coefficient like 0.05')
    if given is None:
        return Strength(None, coefficient=0.0)
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise complaint
    text = given.strip() if isinstance(given, str) else ""
    if isinstance(given, str) and not text.endswith("%"):
        raise complaint
    try:
        number = float(text[:-1]) if text else float(given)
    except ValueError:
        raise complaint from None
    if not math.isfinite(number) or number < 0:
        raise complaint
    if not text:
        return Strength(number, coefficient=number)
    return Strength(text, coefficient=0.0) if number == 0 else Strength(text, share=number / 100)
