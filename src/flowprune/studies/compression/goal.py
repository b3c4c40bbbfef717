"""What a compression is to reach: so many MACs, so much time, or as few MACs as a drop of accuracy allows."""

from __future__ import annotations

from dataclasses import dataclass

from flowprune.engine.allocation import Budget, budget_from
from flowprune.errors import BudgetError, ModelError
from flowprune.studies.compression.paired_drop import check_resolvable
from flowprune.studies.compression.scored import Scored


@dataclass(frozen=True)
class Goal:
    """One of the two.

    Attributes:
        budget: of MACs or time; None where the drop says how small.
        max_drop: percentage points that may be lost at most, with 95 % confidence; None where the budget says how small.
    """

    budget: Budget | None = None
    max_drop: float | None = None

    @classmethod
    def of(
        cls, macs: float | str | None = None, latency: float | str | None = None, max_drop: float | None = None
    ) -> Goal:
        """The one goal that is given.

        Raises:
            BudgetError: none or several are, or it is malformed.
        """
        given = [
            f"{name}="
            for name, one in (("macs", macs), ("latency", latency), ("max_drop", max_drop))
            if one is not None
        ]
        if len(given) != 1:
            said = f"{' and '.join(given)} were given" if given else "none was given"
            raise BudgetError(f"a compression has exactly one goal, macs=, latency= or max_drop=; {said}")
        if max_drop is None:
            budget = budget_from(macs=macs, latency=latency)
            if budget.share == 1:
                raise BudgetError(f"{budget} keeps everything; a goal is a share below 1")
            return cls(budget)
        if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 < max_drop < 100:
            raise BudgetError(f"max_drop={max_drop!r} is not a loss of accuracy: use percentage points, such as 0.5")
        return cls(max_drop=float(max_drop))

    def check(self, before: Scored) -> None:
        """Refuse a drop that the evaluation cannot tell.

        Raises:
            ModelError: it gives one number for all images.
            DataError: there are too few images.
        """
        if self.max_drop is None:
            return
        if before.right is None:
            raise ModelError(
                "max_drop= compares the answers to every image: have evaluate return whether each is right, not one number"
            )
        check_resolvable(self.max_drop, len(before.right))

    def __str__(self) -> str:
        return str(self.budget) if self.budget is not None else f"max_drop={self.max_drop:g}"
