"""How much of what can be tried any number of times is tried: less in ``make test``, which has to end within minutes."""

from __future__ import annotations

import os
from typing import TypeVar

Amount = TypeVar("Amount")

THOROUGH = bool(os.environ.get("FLOWPRUNE_THOROUGH"))
"""Set by ``make test-all``."""


def times(quick: Amount, thorough: Amount) -> Amount:
    """How often, how many, or which: ``quick`` in ``make test``, ``thorough`` in ``make test-all``.

    Example:
        >>> times(quick=20, thorough=70) in (20, 70)
        True
    """
    return thorough if THOROUGH else quick
