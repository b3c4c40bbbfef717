"""Faults in what is believed of constants: the unknown taken for known, a mask lost, values shifted, a constant that goes astray.

A network whose dead filters stand in front of a gate shows them: by a threshold it is no longer the dense model.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from flowprune.engine.constants import folding, interpretation
from flowprune.engine.constants import rules as constant_rules
from flowprune.engine.constants.call import Call, Operand
from flowprune.engine.constants.knowledge import Knowledge
from flowprune.engine.constants.rules import Learned, Rule, rule_for
from flowprune.engine.planning import selection
from flowprune.engine.tracing import Graph
from mutation.trial import Mutant

known_constants = importlib.import_module("flowprune.engine.constants.known_constants")  # the package's is the function

Wrong = Callable[[Rule, Call], Learned]


def mutants(graph: Graph) -> Iterator[Mutant]:
    """Three wrong rules for every operator of the pass, and what can go wrong around the rules."""
    for name in dict.fromkeys(operation.name for operation in graph.operations):
        rule = rule_for(next(operation for operation in graph.operations if operation.name == name))
        for kind, wrong in RULES:
            faulty = partial(wrong, rule)
            yield Mutant(f"constants: {kind}", name, partial(patch.dict, constant_rules._RULES, {name: faulty}))
    for kind, fault in AROUND:
        yield Mutant(f"constants: {kind}", "everywhere", fault)


def _zeros_for_the_unknown(right: Rule, call: Call) -> Learned:
    """The operator runs on invented numbers, and what comes out is believed."""

    def invented(value: int) -> Operand:
        operand = call.operand(value)
        known = operand.knowledge
        values = torch.zeros(operand.shape, dtype=operand.dtype) if known is None else known.values
        return dataclasses.replace(operand, knowledge=Knowledge(values))

    return right(dataclasses.replace(call, operand=invented))


def _mask_forgotten(right: Rule, call: Call) -> Learned:
    """Where something is known, everything is."""
    return [None if found is None else Knowledge(found.values) for found in right(call)]


def _values_shifted(right: Rule, call: Call) -> Learned:
    """What is known of a channel is what its neighbour says."""
    return [
        Knowledge(found.values.roll(1, min(1, found.values.dim() - 1)), found.known)
        if found is not None and found.values.dim()
        else found
        for found in right(call)
    ]


RULES: tuple[tuple[str, Wrong], ...] = (
    ("the unknown taken for zeros", _zeros_for_the_unknown),
    ("a mask forgotten", _mask_forgotten),
    ("a neighbour's values", _values_shifted),
)
"""Kind, and what it makes of any operator's rule."""


def _examples_believed(only_floats: bool) -> AbstractContextManager[Any]:
    """The inputs are taken for those of the example: no other number and no other mark will come."""
    begin = interpretation._Walk._begin

    def wrong(self: Any, tensors: Any) -> None:
        begin(self, tensors)
        for value, given in zip(self.graph.inputs, self.given, strict=False):
            if given.is_floating_point() == only_floats:
                self._hold_constant(value, given)

    start = interpretation._Walk.__init__

    def remembering(self: Any, graph: Any, tensors: Any, inputs: Any) -> None:
        self.given = [leaf for leaf in torch.utils._pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
        start(self, graph, tensors, inputs)

    return patch.multiple(interpretation._Walk, __init__=remembering, _begin=wrong)


def _folded(change: Callable[[folding.Folding], None]) -> AbstractContextManager[Any]:
    """What ``fold_constants`` found is changed."""
    right = selection.fold_constants

    def wrong(*args: Any, **kwargs: Any) -> folding.Folding:
        found = right(*args, **kwargs)
        change(found)
        return found

    return patch.object(selection, "fold_constants", wrong)


def _shifted(change: Callable[[torch.Tensor], torch.Tensor]) -> AbstractContextManager[Any]:
    def changed(found: folding.Folding) -> None:
        found.shifts = {name: change(shift) for name, shift in found.shifts.items()}

    return _folded(changed)


def _said(change: Callable[[torch.Tensor], torch.Tensor]) -> AbstractContextManager[Any]:
    """Dead filters are believed to say something else."""
    right = known_constants.with_dead_filters

    def wrong(*args: Any) -> Knowledge | None:
        found = right(*args)
        return None if found is None else Knowledge(change(found.values), found.known)

    return patch.object(known_constants, "with_dead_filters", wrong)


AROUND: tuple[tuple[str, Callable[[], AbstractContextManager[Any]]], ...] = (
    ("numbers and marks of the example believed", partial(_examples_believed, False)),
    ("floats of the example believed", partial(_examples_believed, True)),
    (
        "Python's decisions overlooked",
        lambda: patch.object(interpretation._Walk, "_is_whole", lambda self, value: True),
    ),
    ("mixtures overlooked", lambda: patch.object(known_constants, "mixtures", lambda evaluation: {})),
    ("what varies is no veto", lambda: _folded(lambda found: found.varying.clear())),
    ("what cannot be folded is no veto", lambda: _folded(lambda found: found.unfoldable.clear())),
    ("a shift of the other sign", lambda: _shifted(lambda shift: -shift)),
    ("a shift of the next filter", lambda: _shifted(lambda shift: shift.roll(1, 0))),
    ("a shift forgotten", lambda: _folded(lambda found: found.shifts.clear())),
    ("dead filters say what their neighbours say", lambda: _said(lambda values: values.roll(1, 1))),
    ("dead filters say nothing", lambda: _said(torch.zeros_like)),
)
"""Kind, and the fault."""
