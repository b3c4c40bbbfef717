"""``round_to="auto"``: widths that the machine likes, smaller multiples where the budget or a layer needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flowprune.engine.allocation import Plan
from flowprune.engine.measuring.preferred_widths import preferred_multiple
from flowprune.engine.planning.request import Request
from flowprune.errors import UnreachableBudgetError


def with_liked_widths(request: Request, planned: Callable[[Request], Plan]) -> Plan:
    """The plan of the largest multiple, from the one the machine likes downwards, under which the budget can be met.

    Args:
        request: its ``round_to`` is "auto".
        planned: the plan of a request with a number there.

    Raises:
        UnreachableBudgetError: as with any width allowed.
    """
    multiple, source = preferred_multiple(request.backend)
    liked = multiple
    while True:
        try:
            found = planned(replace(request, round_to=f"auto:{multiple}"))
        except UnreachableBudgetError:
            if multiple == 1:
                raise
            multiple //= 2
            continue
        chosen = f"multiples of {multiple}" if multiple > 1 else "any width"
        why = source if multiple == liked else f"multiples of {liked}, {source}, do not meet the budget"
        return replace(found, asked=f"{found.asked}, round_to=auto: {chosen} ({why})")
