"""What is said where even the largest allowed loss is not enough."""

from __future__ import annotations

from flowprune.engine.interfaces import AllocationProblem
from flowprune.errors import UnreachableBudgetError


def unreachable(problem: AllocationProblem, smallest: int, why: str = "the limits allow") -> UnreachableBudgetError:
    """The error that names the target and the smallest count."""
    return UnreachableBudgetError(
        f"{problem.target:,} {problem.counted} cannot be met: the least that {why} is {smallest:,}; raise the budget",
        smallest,
    )
