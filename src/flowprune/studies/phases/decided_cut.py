"""A cut that calibration images decide, once or in every step: what leaves, and the weights of the layers that read the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed, cuts_between
from flowprune.engine.interfaces import Outcome
from flowprune.engine.planning import Request
from flowprune.engine.steps.copying import copy_of
from flowprune.errors import RecipeError
from flowprune.methods.decisions import REGISTRY
from flowprune.pruning import plan_as_asked, prune
from flowprune.studies.phases.named_regularizers import RegularizerSection
from flowprune.studies.phases.working import Work
from flowprune.studies.sections import BudgetSection


def decided(
    model: nn.Module,
    work: Work,
    by: RegularizerSection,
    images: Callable[[], list[Any]],
    budget: BudgetSection | None,
) -> tuple[nn.Module, Work]:
    """The model to be cut, and the work with what is to leave it.

    Args:
        model: left as it is.
        work: whose outcome a decision is put in the place of.
        by: the decision, by name and with options.
        images: calibration batches.
        budget: where there is one, the decision's scores count, and its weights, which were fitted for another cut, do not.

    Raises:
        UnknownNameError: there is no such decision, or it has no such option.
        RecipeError: an option has a value it cannot take.
        Whatever the decision raises.
    """
    outcome = REGISTRY.built(by.name, by.options, images)(model)
    if budget is None and outcome.weights is not None:
        model = copy_of(model)
        model.load_state_dict({**model.state_dict(), **outcome.weights})
    return model, replace(work, outcome=outcome)


def check_steps(name: str, decision: object, steps: int) -> None:
    """Raise a ``RecipeError`` where several cuts should lead to what a decision decides, and it has no budget to lead to."""
    if steps > 1 and not hasattr(decision, "in_steps"):
        raise RecipeError(f"the decision {name} has no budget that several cuts could lead to; set steps to 1")


def decided_anew(
    model: nn.Module,
    work: Work,
    by: RegularizerSection,
    images: Callable[[], list[Any]],
    request: Callable[[Outcome], Request],
    steps: int,
    finetune: Callable[[nn.Module, int], None],
) -> tuple[nn.Module, Plan, Work]:
    """Several cuts, each decided on the model that the one before left, trained since.

    Args:
        model, work, by, images: see ``decided``.
        request: what ``plan`` is asked for, by what was decided.
        steps: how many cuts.
        finetune: trains between them, see ``training_between``.

    Returns:
        The small model, the plan of all cuts together, and the work with what was decided for the last.
    """
    decision: Any = REGISTRY.built(by.name, by.options, images)
    check_steps(by.name, decision, steps)
    small = model
    for step, one in enumerate(decision.in_steps(model, work.example(), steps), start=1):
        work = replace(work, outcome=one(small))
        assert work.outcome is not None
        small = prune(small, plan_as_asked(small, work.example(), request(work.outcome)))
        if step < steps:
            finetune(small, step)
    return small, composed(cuts_between(model, small), f"{by.name} in {steps} steps"), work
