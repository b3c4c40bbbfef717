"""Which budget to try next, looking for the smallest under which a model still passes."""

from __future__ import annotations

from collections.abc import Mapping

FIRST, FINEST = 0.5, 0.03
"""The share of the MACs that is tried first, and how near two tried ones may come to each other."""


def next_share(tried: Mapping[float, bool], first: float = FIRST, finest: float = FINEST) -> float | None:
    """The share of the MACs to try next; None where the answer is known as finely as it is asked for.

    Halfway between the smallest that has passed and the largest below it that has not. A share above one that has passed is of no
    interest, whether it passes or not: a training may end well at 0.4 and badly at 0.5, and 0.4 counts.

    Args:
        tried: share -> whether it passed, in any order.
        first: to begin with.
        finest: see above.

    Example:
        >>> next_share({0.5: True})
        0.25
        >>> next_share({0.5: False, 0.75: True})
        0.625
    """
    if not tried:
        return first
    high = smallest_passing(tried) or 1.0
    low = max((share for share, passed in tried.items() if not passed and share < high), default=0.0)
    return round((low + high) / 2, 4) if high - low > finest else None


def smallest_passing(tried: Mapping[float, bool]) -> float | None:
    """The smallest share that has passed; None where none has."""
    return min((share for share, passed in tried.items() if passed), default=None)
