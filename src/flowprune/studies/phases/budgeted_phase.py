"""What the phases have in common that are carried out to each of their budgets, all of one kind."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from flowprune.studies.sections import BudgetSection, Section


class BudgetedPhase(Section):
    """A phase with budgets of one kind, or none.

    Attributes:
        budgets: each is carried out by itself.
    """

    keeps: ClassVar[tuple[str, str]]
    """(the kind of its budgets, a share of it for messages)"""
    who: ClassVar[str]
    """What it is called in messages."""
    budgets: list[BudgetSection] = Field(default_factory=list)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        kind, share = self.keeps
        other = next((budget for budget in self.budgets if budget.kind != kind), None)
        if other is not None:
            raise ValueError(f"{self.who} keeps {kind}, so it has no budget of {other.kind}; write {{{kind}: {share}}}")
        return self

    @property
    def targets(self) -> tuple[BudgetSection | None, ...]:
        """Each is carried out by itself, on the same model."""
        return tuple(self.budgets) or (None,)
