"""Attention that loses whole heads and, of those that stay, channels inside: two certified cuts as one plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.falling_short import attempts, warn_if_short
from flowprune.engine.planning.request import Request
from flowprune.engine.planning.widths import Widths
from flowprune.engine.surgery import cut
from flowprune.errors import BudgetError, UnreachableBudgetError

Planned = Callable[[nn.Module, Any, Request], Plan]
_PROGRESS = (0.5, 0.75, 1.0, 0.25)
"""How far towards the budget whole heads go; the other ways only where the first cannot be met."""


def plan_both(plan: Planned, model: nn.Module, inputs: Any, request: Request) -> Plan:
    """Whole heads on half of the way to the budget, channels inside heads on the other half; everything else on both.

    Half of the way is the square root of the share that is kept. Where an attention allows only one of the two, it loses that; and
    where that half cannot be met, or the other, more or less of the way is taken by whole heads.

    Args:
        plan: makes one certified plan of a model, example inputs and a request.
        model: the dense model; it is not touched.
        inputs: example inputs.
        request: what is asked, with ``heads="both"`` and a budget of ``macs``, ``params`` or ``channels``.

    Raises:
        BudgetError: for another kind of budget, and whatever else ``plan`` raises.
    """
    budget = request.budget
    if budget.kind in ("threshold", "latency"):
        raise BudgetError(f'{budget} with heads="both" is not possible; use heads="whole" or heads="inside"')
    coupled = CoupledModel.of(model, inputs, request.ignore, request.freeze)
    dense = coupled.left(budget.kind, np.zeros(coupled.coupling.notes.labels, dtype=bool))
    target = 1 if budget.kind == "channels" else budget.target(dense)
    failure: BudgetError | None = None
    for progress in _PROGRESS:
        small, made = model, list[Plan]()
        try:
            for heads, way in (("whole", progress), ("inside", 1.0)):
                widths = Widths(model, inputs, replace(request, heads=heads))
                for earlier in made:
                    widths.follow(earlier)
                with attempts():
                    made.append(plan(small, inputs, widths.request(way, dense, target)))
                small = cut(small, made[-1])
            whole = composed(made, str(budget), untrained=True)
            warn_if_short(whole, budget)
            return whole
        except UnreachableBudgetError as error:
            failure = failure or error
    assert failure is not None
    raise failure
