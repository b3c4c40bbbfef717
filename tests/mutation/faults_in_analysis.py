"""Faults in the analysis of the dense model, and in any rule of it: what one operator says is lost, or said of the wrong channel.

The analysis alone being wrong, the certificate's own propagation has the right rules and must find it. A rule wrong in both
is what the certificate cannot see in principle, and the silenced twin is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from flowprune.engine.coupling import Analysis
from flowprune.engine.coupling import rules as coupling_rules
from flowprune.engine.coupling.labels import Block
from flowprune.engine.coupling.propagation import Propagation, Rule
from flowprune.engine.tracing import Operation
from mutation.hearing import Saying
from mutation.trial import Mutant


def mutants(said: Sequence[Saying], carrying: Sequence[str]) -> Iterator[Mutant]:
    """A fault for everything that is said of the evaluation pass, and three for every operator that carries channels."""
    for saying in said:
        if saying.by_class:
            continue
        place = f"{saying.operator} in {saying.place}, {saying.method} {saying.number}"
        fault = partial(_unsaid, saying.method, saying.number)
        yield Mutant(f"the analysis misses {_A[saying.method]}", place, fault)
        if saying.method == "join":
            yield Mutant("the analysis joins shifted channels", place, partial(_shifted, saying.number))
    joining = {saying.operator for saying in said if saying.method == "join"}
    for name in carrying:
        if name in joining:
            yield Mutant("a rule joins nothing", name, partial(with_rule, name, silent("join")))
        kind = "a rule's result carries shifted channels"
        yield Mutant(kind, name, partial(with_rule, name, _rolled))
        yield Mutant(f"{kind}, in the analysis only", name, partial(with_rule, name, _rolled, first_only=True))


_A = {
    "join": "that channels are one",
    "freeze": "that channels must stay",
    "balance": "that rows keep equally many",
    "count": "that a number counts channels",
    "extent": "that a number is a size",
}


def _numbered(method: str, number: int, instead: Callable[..., None]) -> AbstractContextManager[Any]:
    """In each pass the call of that number goes to ``instead``. The training pass says the same, so it has the same fault."""
    original = getattr(Analysis, method)
    counts: dict[int, int] = {}

    def faulty(self: Analysis, *args: Any, **kwargs: Any) -> Any:
        if self.operation is None:
            return original(self, *args, **kwargs)
        own = counts[id(self)] = counts.get(id(self), -1) + 1
        if own == number:
            return instead(original, self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return patch.object(Analysis, method, faulty)


def _unsaid(method: str, number: int) -> AbstractContextManager[Any]:
    return _numbered(method, number, _nothing)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _shifted(number: int) -> AbstractContextManager[Any]:
    def instead(join: Callable[..., None], state: Analysis, left: Any, right: Any) -> None:
        join(state, left, np.roll(right, 1, axis=-1))

    return _numbered("join", number, instead)


WrongRule = Callable[[Rule, Operation, Propagation], None]


@contextmanager
def with_rule(names: str, wrong: WrongRule, first_only: bool = False) -> Iterator[None]:
    """The rule of an operator (or of several, a space apart) is ``wrong``: in every propagation, or only in the dense model's."""

    def faulty(right: Rule, operation: Operation, state: Propagation) -> None:
        if first_only and not isinstance(state, Analysis):
            right(operation, state)
        else:
            wrong(right, operation, state)

    known = coupling_rules._RULES
    with patch.dict(known, {name: partial(faulty, known[name]) for name in names.split() if name in known}):
        yield


def silent(*methods: str) -> WrongRule:
    """The rule runs, but nothing that it says by these methods is heard."""

    def wrong(right: Rule, operation: Operation, state: Propagation) -> None:
        for method in methods:
            setattr(state, method, lambda *args, **kwargs: None)
        try:
            right(operation, state)
        finally:
            for method in methods:
                delattr(state, method)

    return wrong


def _rolled(right: Rule, operation: Operation, state: Propagation) -> None:
    right(operation, state)
    for value in operation.outputs:
        if value is not None and value in state.layouts:
            state.layouts[value] = tuple(
                Block(block.dimensions, np.roll(block.labels, 1, axis=block.inner), block.inner)
                for block in state.layouts[value]
            )
