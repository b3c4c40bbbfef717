"""One small function per ATen operator: which labels must be equal, and what the result carries.

A rule is found by the operator's name without its overload. An operator without a rule freezes what it touches: unknown means not
pruned, never wrong. Your own operators join in through ``rule``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from flowprune.coupling.propagation import Propagation, Rule
from flowprune.tracing import Operation

_RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Decorator: the function is the rule of these operators, named ``"aten.relu"`` or ``"my_library.my_operator"``."""

    def enter(function: Rule) -> Rule:
        for operator in operators:
            _RULES[operator] = function
        return function

    return enter


def rule_of(operation: Operation) -> Rule:
    """The rule of an operation; the freezing one where nothing is known."""
    return _RULES.get(operation.name, unknown_operator)


def unknown_operator(operation: Operation, state: Propagation) -> None:
    """Freeze every channel the operator touches, and say which operator it was."""
    place = f" in {operation.module}" if operation.module else ""
    state.freeze_inputs(operation, f"passes through {operation.name}{place}, which has no coupling rule")


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
