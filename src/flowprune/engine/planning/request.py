"""What is asked of a cut: a budget, a criterion and everything that limits what may leave, held and checked in one place."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from flowprune.engine.allocation import KINDS, Budget, Shares, budget_from, checked_shares
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.interfaces import Allocator, Importance, Outcome
from flowprune.engine.measuring.backends import BACKENDS
from flowprune.engine.planning.exemptions import Frozen, Ignored
from flowprune.errors import BudgetError, checked_name

LARGEST_CUT = 0.9
"""The share of a coupled group that may leave where nothing else is said."""
SHARED_OUT = ("macs", "params")
"""What an allocator shares out; the candidates of a budget of time are cut to the first."""


@dataclass(frozen=True)
class Request:
    """What ``flowprune.plan`` is asked for; its documentation says what each of these means.

    What can only be judged beside a model is not judged here: names of layers, and whether the budget can be met.

    Attributes:
        budget: what is kept.
        round_to: "auto:8" is what "auto" becomes where multiples of 8 are liked.
        importance: the criterion; may be put in later (``dataclasses.replace``), and is never asked under a threshold.

    Raises:
        BudgetError: one of them has a value it cannot take, or two go ill together.
    """

    budget: Budget
    importance: Importance | None = None
    largest_cut: Shares = LARGEST_CUT
    round_to: int | str = 1
    fold_tolerance: float = 0.05
    heads: str = "whole"
    ignore: Ignored = ()
    freeze: Frozen | None = None
    branches: bool | str = False
    also: Collection[str] = ()
    outcome: Outcome | None = None
    allocator: Allocator | str | None = None
    backend: str = "pytorch"

    def __post_init__(self) -> None:
        if self.branches not in (True, False, "always"):
            raise BudgetError(f'branches={self.branches!r} is not known; use True, False or "always"')
        if self.heads == "both" and self.branches:
            raise BudgetError('branches with heads="both" is not possible; use heads="whole" or heads="inside"')
        if self.allocator is not None:
            self._check_shared_out()
        if self.largest_cut is not LARGEST_CUT:
            object.__setattr__(self, "largest_cut", checked_shares(self.largest_cut, "largest_cut"))
        liked = isinstance(self.round_to, str) and re.fullmatch(r"auto(:\d+)?", self.round_to)
        if not liked and not (type(self.round_to) is int and self.round_to >= 1):
            raise BudgetError(f'round_to={self.round_to!r} is not a width: use a whole number such as 8, or "auto"')
        if self.backend not in BACKENDS:
            checked_name("backend", self.backend, BACKENDS)  # says which there are

    @property
    def width_multiple(self) -> int:
        """What widths are to be multiples of."""
        return self.round_to if isinstance(self.round_to, int) else int(self.round_to.partition(":")[2] or 1)

    @property
    def narrower(self) -> bool:
        """Whether a layer that can be no such multiple takes smaller ones."""
        return isinstance(self.round_to, str)

    def check_criterion(self) -> None:
        """Raise a ``BudgetError`` where something must rank the channels and nothing does."""
        if self.budget.kind != "threshold" and self.importance is None:
            raise BudgetError(
                f"a budget of {self.budget.kind} needs importance=, for example importance=flowprune.importance.L2()"
            )

    def under(self, budget: Budget) -> Request:
        """The same under another budget, which one of time tries; the allocator is asked for what it can share out."""
        return replace(self, budget=budget, allocator=self.allocator if budget.kind in SHARED_OUT else None)

    def _check_shared_out(self) -> None:
        budget, others = self.budget, {"branches=": self.branches, 'heads="both"': self.heads == "both"}
        besides = [name for name, given in others.items() if given] + ['scope="local"'] * (budget.scope == "local")
        if budget.kind not in (*SHARED_OUT, "latency"):
            raise BudgetError(
                f"allocator= shares out a budget of macs=, params= or latency=, not {budget}; leave it out"
            )
        if besides:
            raise BudgetError(f"allocator= does not go with {besides[0]}; leave one of the two out")

    @classmethod
    def of(cls, **options: Any) -> Request:
        """The request that the keyword arguments of ``flowprune.plan`` make."""
        asked = {name: options.pop(name) for name in (*KINDS, "scope") if name in options}
        return cls(budget_from(**asked, outcome=options.get("outcome")), **options)


class AskedOnce:
    """A criterion whose scores of a model are kept as long as the groups stay the same."""

    def __init__(self, criterion: Importance) -> None:
        self.criterion = criterion
        self._known: dict[Hashable, list[torch.Tensor]] = {}

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """See ``Importance``."""
        places = tuple(
            (group.name, group.channels, member.name, member.dimension, member.indices.tobytes())
            for group in groups
            for member in group.members
        )
        if places not in self._known:
            self._known[places] = list(self.criterion(model, inputs, groups))
        return self._known[places]


def name_of(importance: Importance | None, allocator: object = None) -> str:
    """How a plan names the criterion it was made by, and who shared the budget out."""
    if isinstance(importance, AskedOnce):
        return name_of(importance.criterion, allocator)
    name = "filter_scale" if importance is None else type(importance).__name__
    return name if allocator is None else f"{name}, {type(allocator).__name__}"
