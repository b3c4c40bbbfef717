"""A phase in which accuracy comes back."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from flowprune.engine.interfaces import Recovery
from flowprune.errors import RecipeError
from flowprune.methods.recovery.recover import built
from flowprune.studies.phases.named_regularizers import NamedRegularizer
from flowprune.studies.phases.training_phase import TrainingPhase
from flowprune.studies.phases.working import Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection


class RecoverPhase(TrainingPhase):
    """Train what was cut, masked, replaced or quantized again, and let recoveries help.

    Attributes:
        recoveries: by registered name, with options, in this order: those that refit on training images do so before the training,
            those that act in a training do so in this one. All know the network as it was before its last cut.
        batches, batch_size: how many training images the former see.
    """

    phase: Literal["recover"] = "recover"
    recoveries: list[NamedRegularizer] = Field(default_factory=list)
    batches: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)
    stage: ClassVar[str] = "finetuned"
    verb: ClassVar[str] = "fine-tune"
    changes_shape: ClassVar[bool] = False

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Build the recoveries, and see whether the regularizers can act on the model."""
        self._built()
        super().check(model, example, next_cut)

    def carried_out(self, model: nn.Module, work: Work, budget: BudgetSection | None = None) -> Done:
        """The model that accuracy came back to."""
        methods = self._built()
        if not methods:
            return super().carried_out(model, work, budget)
        if work.whole is None:
            raise RecipeError(f"{work.title}: nothing was cut before this recovery; leave recoveries out, or cut first")
        dense, plan = work.whole(model)
        images = work.batches(self.batches, self.batch_size)
        acting: list[Recovery] = []
        for method in methods:
            model = method.prepare(model, dense, plan, images)
            if method.trains:
                acting.append(method)
            else:
                model = method.restored()
                method.close()
        done = self.trained(model, work, acting)
        small = done.model
        for method in reversed(acting):
            small = method.restored()
            method.close()
        return done._replace(model=small)

    def _built(self) -> list[Recovery]:
        return [built(section.name, section.options) for section in self.recoveries]
