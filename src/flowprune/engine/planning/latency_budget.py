"""A budget of time: cut to a budget of MACs, time what came out, and bisect. Nothing is estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import nn

from flowprune.engine.allocation import Budget, Plan
from flowprune.engine.measuring.latency import Timing, time_in_turns
from flowprune.engine.tracing import batch_size, first_tensor
from flowprune.errors import UnreachableBudgetError

CLOSE_ENOUGH = 0.02
"""The bisection ends when the two nearest candidates differ by this share of the dense model's MACs."""
TURNS, FINAL_TURNS = 11, 25
CANDIDATES = 16
"""How many cuts are timed at most: on a busy machine the verdicts contradict one another."""


def within_latency(
    model: nn.Module,
    inputs: Any,
    budget: Budget,
    planned: Callable[[Budget], Plan],
    carried_out: Callable[[Plan], nn.Module],
    backend: str = "pytorch",
) -> Plan:
    """The plan of most MACs whose small model, timed here on ``inputs``, is not slower than asked.

    Every candidate is a real cut. It is timed in turns with the dense model; a share is of the dense model's time in the same
    turns. The one chosen is timed again, longer; if it is too slow then, the search goes on below it.

    Args:
        model: the dense model.
        inputs: example inputs; the batch and the device are those the time is asked for.
        budget: of kind "latency".
        planned: the plan under a budget of MACs.
        carried_out: the small model of a plan.
        backend: what runs the forwards that are timed.

    Raises:
        UnreachableBudgetError: if even the smallest model the constraints allow is too slow.
    """
    clock = time_in_turns if backend == "pytorch" else partial(time_in_turns, backend=backend)
    whole = planned(Budget("channels", share=1.0))
    dense = carried_out(whole)
    (alone,) = clock([dense], inputs, TURNS)
    if budget.share == 1 or (budget.absolute is not None and alone.median <= _seconds(budget)):
        return _recorded(whole, budget, inputs, backend, alone, alone)

    def timed(candidate: Plan, turns: int) -> tuple[Timing, Timing]:
        before, after = clock([dense, carried_out(candidate)], inputs, turns)
        return before, after

    smallest = _smallest(budget, planned)
    before, after = timed(smallest, TURNS)
    if not _is_fast_enough(budget, before, after):
        raise UnreachableBudgetError(
            f"{budget} cannot be met on this machine: {_verdict(budget, before, after)}; raise the budget or free more layers",
            round(after.median * 1e9),
        )
    fitting = [smallest]
    high = whole.macs[0]
    for tried in count():
        middle = (fitting[-1].macs[1] + high) // 2
        if tried < CANDIDATES and high - fitting[-1].macs[1] > CLOSE_ENOUGH * whole.macs[0]:
            candidate = planned(Budget("macs", absolute=middle, scope=budget.scope))
            if candidate.macs[1] > fitting[-1].macs[1] and _is_fast_enough(budget, *timed(candidate, TURNS)):
                fitting.append(candidate)
            else:
                high = middle
            continue
        before, after = timed(fitting[-1], FINAL_TURNS)
        if _is_fast_enough(budget, before, after) or len(fitting) == 1:
            break
        high = fitting.pop().macs[1]
    return _recorded(fitting[-1], budget, inputs, backend, before, after)


def _is_fast_enough(budget: Budget, dense: Timing, small: Timing) -> bool:
    if budget.absolute is not None:
        return small.median <= _seconds(budget)
    assert isinstance(budget.share, float)
    return small.share_of(dense) <= budget.share


def _verdict(budget: Budget, dense: Timing, small: Timing) -> str:
    """What was asked and what was found, in the numbers that ``_is_fast_enough`` compares."""
    if budget.absolute is not None:
        return (
            f"{_shown(_seconds(budget))} were asked for, the dense model takes {_shown(dense.median)} and the smallest model the "
            f"constraints allow {_shown(small.median)}"
        )
    return (
        f"{budget.share:.3g} of the dense model's time were asked for, the dense model takes {_shown(dense.median)} and the "
        f"smallest model the constraints allow {small.share_of(dense):.3g} of its time, turn by turn"
    )


def _smallest(budget: Budget, planned: Callable[[Budget], Plan]) -> Plan:
    """The smallest model that the constraints allow; what the certificate refuses on the way makes it a larger one."""
    asked = 1
    while True:
        try:
            return planned(Budget("macs", absolute=asked, scope=budget.scope))
        except UnreachableBudgetError as error:
            asked = error.smallest


def _seconds(budget: Budget) -> float:
    assert budget.absolute is not None
    return budget.absolute / 1e9


def _target(budget: Budget, dense: Timing) -> float:
    if budget.absolute is not None:
        return _seconds(budget)
    assert isinstance(budget.share, float)
    return budget.share * dense.median


def _recorded(plan: Plan, budget: Budget, inputs: Any, backend: str, dense: Timing, small: Timing) -> Plan:
    """The plan with what was asked and measured, in milliseconds."""
    low, high = small.quartiles
    record = {
        "target": _target(budget, dense) * 1e3,
        "dense": dense.median * 1e3,
        "reached": small.median * 1e3,
        "share": small.share_of(dense),
        "quartiles": [low * 1e3, high * 1e3],
        "runs": len(small.samples),
        "batch": batch_size(inputs),
        "device": str(first_tensor(inputs).device),
        "threads": torch.get_num_threads(),
        "backend": backend,
    }
    return replace(plan, asked=str(budget), scope=budget.scope, target=None, smallest_step=None, latency=record)


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
