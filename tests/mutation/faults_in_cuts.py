"""Faults in what leaves: one tensor's slices differ from what its partners lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

from flowprune import pruning
from flowprune.engine.allocation import Plan
from mutation.trial import Mutant

Change = Callable[[Plan], Plan]


def mutants(plan: Plan) -> Iterator[Mutant]:
    """Every fault of these kinds, for every dimension of every tensor that the plan cuts."""
    for name, dimensions in plan.removed.items():
        for dimension, gone in dimensions.items():
            free = next(i for i in range(plan.shapes[name][dimension]) if i not in gone)
            place = f"{name}[{dimension}]"
            other = partial(_with, name=name, dimension=dimension, indices=tuple(sorted((*gone[1:], free))))
            yield Mutant("an index swapped, in the plan", place, partial(_planned, other))
            yield Mutant("an index swapped, in the cut", place, partial(_carried_out, other))
            more = partial(_with, name=name, dimension=dimension, indices=tuple(sorted((*gone, free))))
            yield Mutant("one channel more leaves a tensor", place, partial(_planned, more))
            yield Mutant("one channel more leaves a tensor, in the cut", place, partial(_carried_out, more))
            fewer = partial(_with, name=name, dimension=dimension, indices=gone[1:])
            yield Mutant("one channel fewer leaves a tensor", place, partial(_planned, fewer))
            none = partial(_with, name=name, dimension=dimension, indices=())
            yield Mutant("a tensor keeps its size", place, partial(_planned, none))


def _with(plan: Plan, name: str, dimension: int, indices: tuple[int, ...]) -> Plan:
    slices = {**plan.removed.get(name, {}), dimension: indices}
    return dataclasses.replace(plan, removed={**plan.removed, name: slices})


def _planned(change: Change) -> AbstractContextManager[Any]:
    """The plan itself is wrong: its slices contradict the groups."""
    assemble = pruning.assemble

    def wrong(*args: Any, **kwargs: Any) -> Any:
        made = assemble(*args, **kwargs)
        return change(made) if isinstance(made, Plan) else made

    return patch.object(pruning, "assemble", wrong)


def _carried_out(change: Change) -> AbstractContextManager[Any]:
    """The plan is right; the real tensors are sliced otherwise than the copy that was certified."""
    cut = pruning.cut
    return patch.object(pruning, "cut", lambda model, plan: cut(model, change(plan)))
