"""How knowledge passes through an operator, one small function per family.

A rule is found by the operator's name without its overload; an operator that writes in place has the rule of its plain form.
An operator without a rule makes something known only of operands that are wholly known: unknown means not folded, never wrong.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence

import torch

from flowprune.engine.constants.aliasing import is_in_evaluation
from flowprune.engine.constants.call import Call, values_of
from flowprune.engine.constants.knowledge import Knowledge, learned
from flowprune.engine.coupling.rules import rule_of
from flowprune.engine.coupling.rules.pointwise import pointwise
from flowprune.engine.tracing import Operation

Learned = Sequence[Knowledge | None]
"""What is known of every output of an operation."""

Rule = Callable[[Call], Learned]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: the function is the rule of these ATen operators."""

    def enter(function: Rule) -> Rule:
        for name in names:
            _RULES[f"aten.{name}"] = function
        return function

    return enter


def rule_for(operation: Operation) -> Rule:
    """The rule of an operation, by its name or that of its form that does not write in place."""
    found = _RULES.get(operation.name) or _RULES.get(operation.name.removesuffix("_"))
    if found is None and rule_of(operation) is pointwise and not operation.name.startswith("aten."):
        return own_pointwise
    return found or of_what_is_known


def is_random(operation: Operation) -> bool:
    """Whether an operator draws random numbers in this call: some only do in training."""
    return torch.Tag.nondeterministic_seeded in operation.function.tags and not is_in_evaluation(operation)


def of_what_is_known(call: Call) -> Learned:
    """Everything is known of the result if everything is known of all operands; the operator runs on what it will really get."""
    unknown: list[Knowledge | None] = [None] * len(call.operation.outputs)
    if is_random(call.operation):
        return unknown
    for operand in call.operands():
        if operand.knowledge is None or not operand.knowledge.is_whole():
            return unknown
    return [None if result is None else learned(result, None) for result in call.run(values_of)]


def own_pointwise(call: Call) -> Learned:
    """A user's operator that its coupling rule says to be pointwise. It may check what it gets, so it runs on nothing but values
    that are known: the unknown entries are filled with a known one."""
    operands = call.operands()
    if len(operands) != 1 or len(call.operation.outputs) != 1 or operands[0].knowledge is None:
        return of_what_is_known(call)
    knowledge = operands[0].knowledge
    known = knowledge.mask()
    filled = torch.where(known, knowledge.values, knowledge.values[known].reshape(-1)[0])
    result = call.run(lambda operand: filled)[0]
    return [None if result is None or result.shape != known.shape else learned(result, known)]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
