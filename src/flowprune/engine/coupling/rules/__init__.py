"""One small function per ATen operator: which labels must be equal, and what the result carries.

A rule is found by the operator's name without its overload. An operator without a rule freezes what it touches: unknown means not
pruned, never wrong. Your own operators join in through ``rule``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

import torch
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from flowprune.engine.coupling.propagation import Propagation, Rule
from flowprune.engine.tracing import Operation
from flowprune.errors import ModelError

_RULES: dict[str, Rule] = {}


def rule(*operators: str | CustomOpDef | OpOverload | OpOverloadPacket) -> Callable[[Rule], Rule]:
    """Decorator: the function is the rule of these operators.

    An ``autograd.Function`` needs none: the operators inside its forward are seen. What runs outside of torch (a kernel of one's
    own, numpy) is made an operator with ``torch.library.custom_op``, and gets its rule here. An operator that works index by index
    has the rule ``flowprune.coupling.pointwise``.

    Args:
        operators: what ``torch.library.custom_op`` returns, an operator under ``torch.ops``, or its name
            (``"my_library::my_operator"``, ``"aten.relu"``).

    Raises:
        ModelError: for anything else.
    """
    names = [_name_of(operator) for operator in operators]

    def enter(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return enter


def _name_of(operator: object) -> str:
    """The operator as ``Operation.name`` has it: its library and name, without the overload."""
    if isinstance(operator, OpOverload):
        return str(operator.overloadpacket)
    if isinstance(operator, OpOverloadPacket):
        return str(operator)
    text = operator._qualname if isinstance(operator, CustomOpDef) else operator
    if isinstance(text, str) and len(parts := text.replace("::", ".").split(".")) >= 2 and all(parts):
        return ".".join(parts[:2])
    if isinstance(operator, type) and issubclass(operator, torch.autograd.Function):
        raise ModelError(
            f"{operator.__name__} needs no rule: the operators inside its forward are seen; what it runs outside of torch becomes "
            "one with torch.library.custom_op, and that gets the rule"
        )
    raise ModelError(
        f'{operator!r} is no operator; give what torch.library.custom_op returns, or a name like "my_library::my_op"'
    )


def rule_of(operation: Operation) -> Rule:
    """The rule of an operation; the freezing one where nothing is known."""
    return _RULES.get(operation.name, unknown_operator)


def unknown_operator(operation: Operation, state: Propagation) -> None:
    """Freeze every channel the operator touches, and say which operator it was; of a parametrisation, how to be rid of it."""
    advice = ""
    if "parametrizations" in operation.module.split("."):
        advice = "; to prune the layer, fold it in by torch.nn.utils.parametrize.remove_parametrizations"
    elif operation.name == "aten._weight_norm_interface":
        advice = "; to prune the layer, fold it in by torch.nn.utils.remove_weight_norm"
    state.freeze_inputs(operation, f"passes through {operation.name}, which has no coupling rule{advice}")


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
