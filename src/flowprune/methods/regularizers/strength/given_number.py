"""Numbers that a regularizer is given as options."""

from __future__ import annotations

from flowprune.errors import RecipeError


def checked_number(name: str, value: object, what: str, within: str = "[0, 1]") -> float:
    """The number that was given, where it lies within an interval.

    Args:
        name: of the option.
        value: what was given for it.
        what: it should be, in words.
        within: the interval; round brackets leave an end out: "(0, 1]" is above 0 and at most 1.

    Raises:
        RecipeError: it does not, or is no number.

    Example:
        >>> checked_number("ratio", 0.5, "share of the filters", "[0, 1)")
        0.5
    """
    least, most = (float(end) for end in within[1:-1].split(","))
    ends = {least} if within[0] == "(" else set()
    ends |= {most} if within[-1] == ")" else set()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most or value in ends:
        raise RecipeError(f"{name}={value!r} is no {what}; give a number in {within}")
    return float(value)
