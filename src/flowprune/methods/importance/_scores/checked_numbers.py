"""Options that count something."""

from __future__ import annotations

import operator

from flowprune.errors import FlowpruneError


def checked_count(name: str, value: object, least: int = 1) -> int:
    """``value`` as a whole number of at least ``least``.

    Raises:
        FlowpruneError: it is none; says the option's ``name``.
    """
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = None
    if count is None or isinstance(value, bool) or count < least:
        raise FlowpruneError(f"{name}={value!r} is not a whole number of at least {least}")
    return count


def checked_seed(value: object) -> int:
    """``value`` as a seed of torch's generators.

    Raises:
        FlowpruneError: it is no whole number from 0 to 2**64 - 1.
    """
    seed = checked_count("seed", value, least=0)
    if seed >= 2**64:
        raise FlowpruneError(f"seed={value!r} is larger than 2**64 - 1")
    return seed
