"""The course of a method: its phases, once for every budget that a phase before them had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowprune.studies.phases import CutPhase, Phase
from flowprune.studies.sections import BudgetSection


@dataclass(frozen=True)
class Stop:
    """A phase with the one budget it has here.

    Attributes:
        phase: what is done.
        budget: to what it is done; None for a phase without budgets.
        stage: what is left, in one word: "dense", "pruned", "finetuned" and so on; numbered where a method has several
            phases of a kind ("finetuned-2").
        budgets: all budgets so far, in words; None where there was none.
        before: what was left before; None where the phase begins with the network itself.
        next_cut: the first cut that follows.
    """

    phase: Phase
    budget: BudgetSection | None
    stage: str
    budgets: str | None
    before: Stop | None
    next_cut: CutPhase | None

    @property
    def is_smaller(self) -> bool:
        """Whether shapes have changed since the beginning."""
        return self.phase.changes_shape or (self.before is not None and self.before.is_smaller)

    @property
    def uncut(self) -> Stop | None:
        """The stop before the last cut; None where there was no cut, or nothing before it."""
        here: Stop | None = self
        while here is not None and not isinstance(here.phase, CutPhase):
            here = here.before
        return None if here is None else here.before


def course_of(phases: Sequence[Phase]) -> Iterator[Stop]:
    """Every stop, each behind the one it begins with; all that follows a budget comes before the next budget."""
    yield from _from(phases, 0, None)


def _from(phases: Sequence[Phase], number: int, before: Stop | None) -> Iterator[Stop]:
    if number == len(phases):
        return
    phase = phases[number]
    again = sum(other.stage == phase.stage for other in phases[:number])
    stage = f"{phase.stage}-{again + 1}" if again else phase.stage
    following = next((other for other in phases[number + 1 :] if isinstance(other, CutPhase)), None)
    for budget in phase.targets:
        said = None if before is None else before.budgets
        if budget is not None:
            said = str(budget) if said is None else f"{said} {budget}"
        stop = Stop(phase, budget, stage, said, before, following)
        yield stop
        yield from _from(phases, number + 1, stop)
