"""A phase that cuts channels out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from flowprune.engine.allocation import Plan
from flowprune.engine.interfaces import Outcome
from flowprune.engine.planning import Request
from flowprune.engine.planning.falling_short import attempts
from flowprune.engine.steps.lineage import Lineage, lineage_of
from flowprune.errors import RecipeError
from flowprune.methods.allocators import REGISTRY as ALLOCATORS
from flowprune.methods.decisions import REGISTRY as DECISIONS
from flowprune.methods.importance import Random
from flowprune.pruning import plan_as_asked, prune
from flowprune.studies.phases.criteria import importance_from
from flowprune.studies.phases.cuts_in_steps import prune_with_training, training_between
from flowprune.studies.phases.decided_cut import check_steps, decided, decided_anew
from flowprune.studies.phases.named_regularizers import NamedRegularizer
from flowprune.studies.phases.short_trainings import short_trainings
from flowprune.studies.phases.working import OUTCOME, Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection
from flowprune.training import evaluate

"""As a criterion: what the training before has found its filters to be worth."""


class CutPhase(PruningSection):
    """Cut the network, to each budget by itself; the phases after it follow every one.

    Attributes:
        budgets: the targets; none, where the training before this phase decided what leaves.
        importance: the criterion; "outcome" asks the training before this phase what its filters are worth.
        decided_by: who looks at training images and decides in a training's place, by its name in ``methods/decisions``; masks
            that it decides beside what leaves are for the phases after this one. With a budget of its own and several ``steps``, it
            decides anew in each of them.
    """

    budgets: list[BudgetSection] = Field(default_factory=list)
    decided_by: NamedRegularizer | None = None
    phase: Literal["cut"] = "cut"
    stage: ClassVar[str] = "pruned"
    verb: ClassVar[str] = "prune"
    changes_shape: ClassVar[bool] = True

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Plan a cut by chance to every budget: whether it can be met is a matter of the architecture."""
        if self.allocator is not None:
            ALLOCATORS.built(self.allocator, self.allocator_options, list)
        if self.decided_by is not None:
            decision = DECISIONS.built(self.decided_by.name, self.decided_by.options, list)
            if not self.budgets:
                check_steps(self.decided_by.name, decision, self.steps)
            if hasattr(decision, "check"):  # one with a budget of its own
                decision.check(model, example)
        for budget in self.budgets:
            if budget.kind in ("macs", "params", "channels"):
                with attempts():
                    plan_as_asked(model, example, replace(self.request(budget), importance=Random()))

    @property
    def by_outcome(self) -> bool:
        """Whether it is the training before, or a decision, that says what leaves, or what it is worth."""
        return not self.budgets or self.importance.name == OUTCOME or self.decided_by is not None

    def asked(self, budget: BudgetSection | None, work: Work) -> Request:
        """What ``plan`` is asked for: the section's request with, but for a threshold, its criterion and allocator with
        their images.

        Raises:
            RecipeError: a training was to decide what leaves, and did not.
        """
        if self.by_outcome:
            if work.outcome is None:
                raise RecipeError(
                    f"{work.title}: no training before this cut decided what leaves; give it budgets and an importance, or the "
                    "training a regularizer that decides"
                )
            return self.request(budget, work.outcome)
        assert budget is not None
        request = self.request(budget)
        if budget.kind == "threshold":
            return request

        def batches() -> list[tuple[Tensor, Tensor]]:
            return work.batches(self.batches, self.batch_size)

        importance = importance_from(self.importance.name, self.importance.options, batches)
        if self.allocator is None:
            return replace(request, importance=importance)
        options = self.allocator_options
        if getattr(ALLOCATORS[self.allocator], "needs_training", False):
            if self.steps > 1:
                raise RecipeError(f"{work.title}: {self.allocator} trains its candidates for one cut; set steps to 1")
            options = {**options, **short_trainings(work, self.between)}
        allocator = ALLOCATORS.built(self.allocator, options, batches)
        return replace(request, importance=importance, allocator=allocator)

    @property
    def targets(self) -> tuple[BudgetSection | None, ...]:
        """Each is carried out by itself, on the same model."""
        return tuple(self.budgets) or (None,)

    def carried_out(self, model: nn.Module, work: Work, budget: BudgetSection | None = None) -> Done:
        """A smaller model; with several steps, trained between them."""
        finetune = training_between(
            steps=self.steps,
            settings=self.between,
            data=work.data,
            run_folder=lambda step: work.folder.with_name(f"{work.folder.name}-step{step}"),
            title=work.title,
            progress=work.progress,
        )
        images = partial(work.batches, self.batches, self.batch_size)
        if self.decided_by is not None and self.steps > 1 and budget is None:
            return self._done(
                *decided_anew(model, work, self.decided_by, images, partial(self.request, None), self.steps, finetune)
            )
        if self.decided_by is not None:
            model, work = decided(model, work, self.decided_by, images, budget)
        request = self.asked(budget, work)
        if self.steps == 1:
            made = plan_as_asked(model, work.example(), request)
            return self._done(prune(model, made), made, work)
        return self._done(*prune_with_training(model, work.example(), request, self.steps, finetune), work)

    def _done(self, small: nn.Module, made: Plan, work: Work) -> Done:
        """What is handed on; masks that a decision had beside what leaves, as the last cut has left them."""
        kept = [{"layer": layer.layer, "dense": layer.channels[0], "kept": layer.channels[1]} for layer in made.layers]
        found = {"top1": evaluate(small, work.data).top1, "channels": kept, "plan": made.summary()}
        if self.decided_by is None or work.outcome is None or work.outcome.masks is None:
            return Done(small, found)
        held = Lineage(masks=work.outcome.masks).with_plan(lineage_of(small).plans[-1])
        return Done(small, found, Outcome(masks=held.masks))
