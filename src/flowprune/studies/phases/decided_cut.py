"""A cut that calibration images decide: what leaves, and the weights of the layers that read the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from flowprune.engine.steps.copying import copy_of
from flowprune.methods.decisions import REGISTRY
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
