"""What the rules say of a network: where there is occasion for a fault."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import nn

from flowprune.engine.coupling import Analysis
from flowprune.engine.planning import CoupledModel

SAYINGS = ("join", "freeze", "balance", "count", "extent")


@dataclass(frozen=True)
class Saying:
    """One thing that a rule says of the evaluation pass.

    Attributes:
        method: one of ``SAYINGS``.
        number: how many of that method came before.
        operator: whose rule it was, "aten.cat".
        place: the module it ran in.
        by_class: a count that surgery does not need, because it knows the attribute by the module's class.
    """

    method: str
    number: int
    operator: str
    place: str
    by_class: bool


def sayings(model: nn.Module, inputs: Any) -> tuple[list[Saying], list[str]]:
    """Everything that is said, in order; and the operators whose results carry channels that may leave."""
    said: list[Saying] = []
    counts = dict.fromkeys(SAYINGS, -1)

    def listening(method: str) -> Callable[..., Any]:
        original = getattr(Analysis, method)

        def heard(self: Analysis, *args: Any, **kwargs: Any) -> Any:
            operation = self.operation
            if not self.graph.training and operation is not None:
                counts[method] += 1
                by_class = method == "count" and args[1] in ("groups", "normalized_shape")
                place = operation.module or "the model itself"
                said.append(Saying(method, counts[method], operation.name, place, by_class))
            return original(self, *args, **kwargs)

        return heard

    with ExitStack() as stack:
        for method in SAYINGS:
            stack.enter_context(patch.object(Analysis, method, listening(method)))
        coupled = CoupledModel.of(model, inputs, ())
    alive = np.zeros(coupled.coupling.notes.labels, dtype=bool)
    for channels in coupled.coupling.channels:
        alive[channels] = True
    alive = alive[coupled.coupling.roots]
    dense = coupled.passes[0]
    carrying = {
        operation.name: None
        for operation in dense.graph.operations
        for value in operation.outputs
        for block in dense.layouts.get(-1 if value is None else value, ())
        if alive[block.labels].any()
    }
    return said, list(carrying)
