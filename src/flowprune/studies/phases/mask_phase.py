"""A phase that makes weights zero for good."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from flowprune.engine.interfaces import Allocator, WeightScore
from flowprune.engine.steps.lineage import lineage_of
from flowprune.methods.allocators import REGISTRY as ALLOCATORS
from flowprune.methods.importance.weight_scores import REGISTRY as SCORES
from flowprune.methods.masks import mask
from flowprune.studies.phases.budgeted_phase import BudgetedPhase
from flowprune.studies.phases.working import OUTCOME, Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection
from flowprune.training import evaluate


class MaskPhase(BudgetedPhase):
    """Mask single weights, to each budget by itself; the phases after it hold the zeros, and follow every budget.

    Attributes:
        mask: its registered name; "outcome" takes the masks that the training before this phase decided.
        options: of the mask's constructor.
        budgets: of ``weights``; none for a fixed pattern, which keeps what it keeps.
        score: what single weights are worth, by its registered name.
        score_options: of the score's constructor.
        allocator: how the budget is shared out among the tensors, by its registered name; the mask's own way if None.
        allocator_options: of the allocator's constructor.
        ignore: modules, dotted names or patterns whose weights stay whole and are not counted.
        batches, batch_size: how many training images data-driven scores and allocators see.
    """

    phase: Literal["mask"] = "mask"
    mask: str = "weight"
    options: dict[str, Any] = Field(default_factory=dict)
    score: str = "magnitude"
    score_options: dict[str, Any] = Field(default_factory=dict)
    allocator: str | None = None
    allocator_options: dict[str, Any] = Field(default_factory=dict)
    ignore: list[str] = Field(default_factory=list)
    batches: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)
    keeps: ClassVar[tuple[str, str]] = ("weights", "0.5")
    who: ClassVar[str] = "a mask"
    stage: ClassVar[str] = "masked"
    verb: ClassVar[str] = "mask"
    changes_shape: ClassVar[bool] = False

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Mask the untrained model by chance, whose budgets can be met alike."""
        if self.mask == OUTCOME:
            return
        self._score()
        if self.allocator is not None:
            self._allocator([])
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
        if self.mask == OUTCOME:
            sparse = mask(model, example, mask=work.decided("masks", "the masks"))
        else:
            images = work.batches(self.batches, self.batch_size)
            shared = None if self.allocator is None else self._allocator(images)
            sparse = mask(
                model,
                example,
                mask=self.mask,
                weights=_weights(budget),
                score=self._score(),
                allocator=shared,
                batches=images,
                ignore=self.ignore,
                **self.options,
            )
        held = lineage_of(sparse).masks
        kept = {
            "weights": int(sum(torch.count_nonzero(one) for one in held.values())),
            "of": sum(one.numel() for one in held.values()),
        }
        return Done(sparse, {"top1": evaluate(sparse, work.data).top1, "extra": {"masked": kept}})

    def _score(self) -> WeightScore:
        built: WeightScore = SCORES.built(self.score, self.score_options)
        return built

    def _allocator(self, images: list[Any]) -> Allocator:
        assert self.allocator is not None
        built: Allocator = ALLOCATORS.built(self.allocator, self.allocator_options, lambda: images)
        return built


def _weights(budget: BudgetSection | None) -> float | str | dict[str, float] | None:
    return None if budget is None else budget.weights
