"""A phase that puts other modules in the places of some, or plain ones back."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from flowprune.methods.replacements import replace, restore
from flowprune.studies.phases.working import OUTCOME, Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection, Section
from flowprune.training import evaluate


class ReplacePhase(Section):
    """Put a replacement in the places of modules, or take it back.

    Attributes:
        replacement: its registered name.
        names: dotted paths of the modules; every one that the replacement takes if None.
        options: of the replacement; ``masks: outcome`` takes those that a training or a cut before this phase decided.
        restore: put plain modules back where an earlier phase put this replacement.
    """

    phase: Literal["replace"] = "replace"
    replacement: str = "linear_expansion"
    names: list[str] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    restore: bool = False
    stage: ClassVar[str] = "replaced"
    verb: ClassVar[str] = "replace"
    changes_shape: ClassVar[bool] = True

    @property
    def targets(self) -> tuple[BudgetSection | None, ...]:
        """No budget: it is carried out once."""
        return (None,)

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Replace modules of the untrained model."""
        if not self.restore and self.options.get("masks") != OUTCOME:
            replace(model, example, replacement=self.replacement, names=self.names, **self.options)

    def carried_out(self, model: nn.Module, work: Work, budget: BudgetSection | None = None) -> Done:
        """A model with other modules, which computes what it computed where the replacement is one that does."""
        if self.restore:
            new = restore(model, replacement=self.replacement)
        else:
            decided = {"masks": work.decided("masks", "masks")} if self.options.get("masks") == OUTCOME else {}
            options = {**self.options, **decided}
            new = replace(model, work.example(), replacement=self.replacement, names=self.names, **options)
        new = new.to(work.device)
        return Done(new, {"top1": evaluate(new, work.data).top1})
