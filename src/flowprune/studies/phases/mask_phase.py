"""A phase that makes weights zero for good."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowprune.engine.steps.lineage import lineage_of
from flowprune.methods.masks import mask
from flowprune.studies.phases.working import Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection, Section
from flowprune.training import evaluate


class MaskPhase(Section):
    """Mask single weights, to each budget by itself; the phases after it hold the zeros, and follow every budget.

    Attributes:
        mask: its registered name; "outcome" takes the masks that the training before this phase decided.
        options: of the mask's constructor.
        budgets: of ``weights``; none for a fixed pattern, which keeps what it keeps.
        score: what single weights are worth, by its registered name.
        allocator: how the budget is shared out among the tensors, by its registered name; the mask's own way if None.
        ignore: modules, dotted names or patterns whose weights stay whole and are not counted.
        batches, batch_size: how many training images data-driven scores and allocators see.
    """

    phase: Literal["mask"] = "mask"
    mask: str = "weight"
    options: dict[str, Any] = Field(default_factory=dict)
    budgets: list[BudgetSection] = Field(default_factory=list)
    score: str = "magnitude"
    allocator: str | None = None
    ignore: list[str] = Field(default_factory=list)
    batches: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)
    stage: ClassVar[str] = "masked"
    verb: ClassVar[str] = "mask"
    changes_shape: ClassVar[bool] = False

    @model_validator(mode="after")
    def _of_weights(self) -> MaskPhase:
        other = next((budget for budget in self.budgets if budget.kind != "weights"), None)
        if other is not None:
            raise ValueError(f"a mask keeps weights, so it has no budget of {other.kind}; write {{weights: 0.5}}")
        return self

    @property
    def targets(self) -> tuple[BudgetSection | None, ...]:
        """Each is carried out by itself, on the same model."""
        return tuple(self.budgets) or (None,)

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Mask the untrained model by chance, whose budgets can be met alike."""
        if self.mask == "outcome":
            return
        for budget in self.targets:
            mask(
                model,
                example,
                mask=self.mask,
                weights=_weights(budget),
                score="random",
                ignore=self.ignore,
                **self.options,
            )

    def carried_out(self, model: nn.Module, work: Work, budget: BudgetSection | None = None) -> Done:
        """A model whose masked weights are zero."""
        example = work.example()
        if self.mask == "outcome":
            sparse = mask(model, example, mask=work.decided("masks", "the masks"))
        else:
            sparse = mask(
                model,
                example,
                mask=self.mask,
                weights=_weights(budget),
                score=self.score,
                allocator=self.allocator,
                batches=work.batches(self.batches, self.batch_size),
                ignore=self.ignore,
                **self.options,
            )
        held = lineage_of(sparse).masks
        kept = {
            "weights": int(sum(torch.count_nonzero(one) for one in held.values())),
            "of": sum(one.numel() for one in held.values()),
        }
        return Done(sparse, {"top1": evaluate(sparse, work.data).top1, "extra": {"masked": kept}})


def _weights(budget: BudgetSection | None) -> float | str | dict[str, float] | None:
    return None if budget is None else budget.weights
