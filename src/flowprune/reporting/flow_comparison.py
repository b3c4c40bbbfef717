"""Two flows in one sentence: is the one's path shorter and straighter than the other's, or not?"""

from __future__ import annotations

from collections.abc import Mapping

TOTALS: tuple[tuple[str, str], ...] = (
    ("gradient", "length, sum of |d|"),
    ("relative_gradient", "sum of |d| / |Y|"),
    ("curvature", "curvature, sum of |c|"),
    ("relative_curvature", "sum of |c| / |Y|"),
    ("angle", "mean angle, rad"),
    ("straightness", "straightness"),
    ("silent", "silent channels"),
)
"""The totals of a flow and what they are called."""

_ALIKE = 0.01
"""What differs by no more than this share is called alike."""

_WORDS = (
    ("relative_gradient", "|d| / |Y|", "shorter", "longer"),
    ("relative_curvature", "|c| / |Y|", "less curved", "more curved"),
    ("angle", "angle", "turning less", "turning more"),
    ("straightness", "straightness", "more winding", "straighter"),
)


def verdict(name: str, totals: Mapping[str, float | None], other: str, others: Mapping[str, float | None]) -> str:
    """What ``other``'s flow is beside ``name``'s, each word with the two numbers it rests on.

    Lengths are relative to the features, because a smaller |d| alone may only mean that all features shrank. The bare ones are
    named where they fell further than the relative ones.
    """
    parts = []
    for key, symbol, below, above in _WORDS:
        first, second = totals.get(key), others.get(key)
        if first is None or second is None:
            continue
        if abs(second - first) <= _ALIKE * max(abs(first), abs(second)):
            word = "alike in length" if key == "relative_gradient" else f"alike in {symbol}"
        else:
            word = below if second < first else above
        parts.append(f"{word} ({symbol} {second:.3g} against {first:.3g})")
    bare, relative = _ratio(totals, others, "gradient"), _ratio(totals, others, "relative_gradient")
    if bare is not None and relative is not None and bare < relative - _ALIKE:
        parts.append(f"|d| itself is {bare:.2f} times, so the features shrank as well")
    return f"{other} beside {name}: " + ("; ".join(parts) if parts else "nothing can be compared")


def _ratio(totals: Mapping[str, float | None], others: Mapping[str, float | None], key: str) -> float | None:
    first, second = totals.get(key), others.get(key)
    return None if first is None or second is None or first == 0 else second / first
