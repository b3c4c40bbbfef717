"""One traced operator call, with what is known of its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowprune.engine.constants.knowledge import Knowledge
from flowprune.engine.tracing import Operation, Reference


@dataclass(frozen=True)
class Operand:
    """A tensor among a call's arguments: its value number, shape and type, and what is known of it."""

    value: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    knowledge: Knowledge | None


@dataclass
class Call:
    """An operation whose tensor arguments are looked up.

    Attributes:
        operation: what the trace holds.
        operand: an ``Operand`` by value number.
        device: where what is computed lies; a trace without data says "meta".
        bounded: value number -> whether the tensor is finite whatever the inputs are.
    """

    operation: Operation
    operand: Callable[[int], Operand]
    device: torch.device
    bounded: Callable[[int], bool]

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument by its name in the operator's schema; a tensor as an ``Operand``, several as a list of them."""
        return self._looked_up(self.operation.argument(name, default))

    def first(self) -> Operand:
        """The first positional argument, a tensor."""
        found = self._looked_up(self.operation.arguments[0])
        assert isinstance(found, Operand)
        return found

    def operands(self) -> list[Operand]:
        """Every tensor among the arguments, in order."""
        return [self.operand(value) for value in self.operation.reads]

    def run(self, part: Callable[[Operand], Tensor], function: Any = None, **changed: Any) -> list[Tensor | None]:
        """Call the operator on ``part`` of each operand; flattened as ``Operation.outputs`` is.

        Args:
            part: what to hand over for a tensor.
            function: another function of the same arguments.
            **changed: keyword or positional arguments, by their names in the schema, to be replaced.
        """
        names = [argument.name for argument in self.operation.function._schema.arguments]
        positional = [
            changed[name] if name in changed else self._put_in(argument, part)
            for name, argument in zip(names, self.operation.arguments, strict=False)
        ]
        keywords = {
            name: changed[name] if name in changed else self._put_in(argument, part)
            for name, argument in self.operation.keywords.items()
        }
        if keywords.get("device") is not None:
            keywords["device"] = self.device
        returned = (function or self.operation.function)(*positional, **keywords)
        found: list[Tensor | None] = []
        for output in returned if isinstance(returned, (tuple, list)) else (returned,):
            if isinstance(output, (tuple, list)):
                found.extend(output)
            else:
                found.append(output if isinstance(output, Tensor) else None)
        return found

    def _put_in(self, argument: Any, part: Callable[[Operand], Tensor]) -> Any:
        if isinstance(argument, Reference):
            return part(self.operand(argument.value))
        if isinstance(argument, tuple):
            return [self._put_in(element, part) for element in argument]
        return argument

    def _looked_up(self, argument: Any) -> Any:
        if isinstance(argument, Reference):
            return self.operand(argument.value)
        if isinstance(argument, tuple) and any(isinstance(element, Reference) for element in argument):
            return [self._looked_up(element) for element in argument]
        return argument


def values_of(operand: Operand) -> Tensor:
    """The values of an operand of which something is known."""
    assert operand.knowledge is not None
    return operand.knowledge.values
