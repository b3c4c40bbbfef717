"""Attention that loses whole heads and, of those that stay, channels inside: two certified cuts as one plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from flowprune.engine.allocation import Plan, Shares, budget_from
from flowprune.engine.allocation.composition import composed
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning.falling_short import attempts, warn_if_short
from flowprune.engine.planning.selection import LARGEST_CUT
from flowprune.engine.planning.widths import KINDS, Widths
from flowprune.engine.surgery import cut
from flowprune.errors import BudgetError, UnreachableBudgetError

_PROGRESS = (0.5, 0.75, 1.0, 0.25)
"""How far towards the budget whole heads go; the other ways only where the first cannot be met."""


def plan_both(
    plan: Callable[..., Plan], model: nn.Module, inputs: Any, *, largest_cut: Shares = LARGEST_CUT, **options: Any
) -> Plan:
    """Whole heads on half of the way to the budget, channels inside heads on the other half; everything else on both.

    Half of the way is the square root of the share that is kept. Where an attention allows only one of the two, it loses that; and
    where that half cannot be met, or the other, more or less of the way is taken by whole heads.

    Args:
        plan: makes one certified plan: ``flowprune.plan``.
        model: the dense model; it is not touched.
        inputs: example inputs.
        largest_cut: as for ``flowprune.plan``, of the dense model's groups.
        **options: the other arguments of ``flowprune.plan``, ``heads`` aside; a budget of ``macs``, ``params`` or ``channels``.

    Raises:
        BudgetError: for another kind of budget, and whatever else ``plan`` raises.
    """
    budget = budget_from(**{kind: options.get(kind) for kind in KINDS}, scope=options.get("scope", "global"))
    if budget.kind in ("threshold", "latency"):
        raise BudgetError(f'{budget} with heads="both" is not possible; use heads="whole" or heads="inside"')
    others = {key: value for key, value in options.items() if key not in KINDS}
    share = budget.share if budget.kind == "channels" else None
    dense = 0 if budget.kind == "channels" else _count(plan, model, inputs, budget.kind, others)
    failure: BudgetError | None = None
    for progress in _PROGRESS:
        small, made = model, list[Plan]()
        try:
            for heads, way in (("whole", progress), ("inside", 1.0)):
                own = {**others, "heads": heads}
                widths = Widths(model, inputs, share, largest_cut, own)
                for earlier in made:
                    widths.follow(earlier)
                asked = widths.options(way)
                if budget.kind != "channels":
                    target = budget.target(dense)
                    asked |= {
                        budget.kind: str(target if way == 1 else max(target, int(dense * (target / dense) ** way)))
                    }
                with attempts():
                    made.append(plan(small, inputs, **own, **asked))
                small = cut(small, made[-1])
            whole = composed(made, str(budget), untrained=True)
            warn_if_short(whole, budget)
            return whole
        except UnreachableBudgetError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _count(plan: Callable[..., Plan], model: nn.Module, inputs: Any, kind: str, options: dict[str, Any]) -> int:
    """What the dense model has, counted as every plan counts it."""
    count: int = getattr(plan(model, inputs, **{**options, "importance": _all_alike}, channels=1.0), kind)[0]
    return count


def _all_alike(model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
    """Scores for a plan under which nothing leaves."""
    return [torch.zeros(group.channels, dtype=torch.float64) for group in groups]
