"""What is asked of a cut: a budget, a criterion and everything that limits what may leave, held and checked in one place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flowprune.engine.allocation import KINDS, Budget, Shares, budget_from, checked_shares
from flowprune.engine.interfaces import Importance, Outcome
from flowprune.engine.planning.exemptions import Frozen, Ignored
from flowprune.errors import BudgetError

LARGEST_CUT = 0.9
"""The share of a coupled group that may leave where nothing else is said."""


@dataclass(frozen=True)
class Request:
    """What ``flowprune.plan`` is asked for; its documentation says what each of these means.

    What can only be judged beside a model is not judged here: names of layers, and whether the budget can be met.

    Attributes:
        budget: what is kept.
        importance: the criterion; may be put in later (``dataclasses.replace``), and is never asked under a threshold.

    Raises:
        BudgetError: one of them has a value it cannot take, or two go ill together.
    """

    budget: Budget
    importance: Importance | None = None
    largest_cut: Shares = LARGEST_CUT
    round_to: int = 1
    fold_tolerance: float = 0.05
    heads: str = "whole"
    ignore: Ignored = ()
    freeze: Frozen | None = None
    branches: bool | str = False
    also: Collection[str] = ()
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        if self.branches not in (True, False, "always"):
            raise BudgetError(f'branches={self.branches!r} is not known; use True, False or "always"')
        if self.heads == "both" and self.branches:
            raise BudgetError('branches with heads="both" is not possible; use heads="whole" or heads="inside"')
        object.__setattr__(self, "largest_cut", checked_shares(self.largest_cut, "largest_cut"))
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise BudgetError(f"round_to={self.round_to!r} is not a width: use a whole number such as 8")

    @classmethod
    def of(cls, **options: Any) -> Request:
        """The request that the keyword arguments of ``flowprune.plan`` make."""
        asked = {name: options.pop(name) for name in (*KINDS, "scope") if name in options}
        return cls(budget_from(**asked, outcome=options.get("outcome")), **options)
