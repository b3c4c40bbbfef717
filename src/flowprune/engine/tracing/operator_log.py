"""The log of a pass: every tensor numbered, every operator and every module call written down as it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from flowprune.engine.tracing import remembered
from flowprune.engine.tracing.graph import Graph, ModuleCall, Operation, Reference, Value
from flowprune.engine.tracing.integers import expression_of
from flowprune.engine.tracing.python_calls import PythonCalls
from flowprune.engine.tracing.scripted import ScriptedPart


def is_unseen(function: OpOverload) -> bool:
    """Whether an operator is left out of the record: uninitialised memory, which back ends ask for as each one likes, and the
    question which device a fake tensor is on."""
    return function.overloadpacket in (torch.ops.aten.empty, torch.ops.prim.device)


def tensors_in(structure: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples, dictionaries and dataclass-like objects, in a fixed order."""
    if isinstance(structure, torch.Tensor):
        yield structure
    elif isinstance(structure, dict):
        for key in structure:
            yield from tensors_in(structure[key])
    elif isinstance(structure, (list, tuple)):
        for element in structure:
            yield from tensors_in(element)
    elif hasattr(structure, "__dict__") and not isinstance(structure, (type, nn.Module)):
        yield from tensors_in(list(vars(structure).values()))


_LITERALS = frozenset({torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default})
"""What ``torch.tensor([...])`` calls on the numbers that the code holds."""


class OperatorLog(TorchDispatchMode):
    """Numbers every tensor and writes down every operator."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        training: bool,
        originals: dict[int, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph(training=training)
        self._originals = originals
        self._blank: set[int] = set()
        self.stand_ins: dict[int, int] = {}
        self.calls: PythonCalls | None = None
        self._numbers: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []  # an id is only unique while its tensor lives
        self._path = ""
        for name, tensor in itertools.chain(
            model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
        ):
            known = self._numbers.get(id(tensor))
            if known is None:
                known = self.number(tensor)
                self.graph.parameters[known] = name
            self.graph.aliases[name] = self.graph.parameters[known]
        self.graph.inputs = tuple(self.number(tensor) for tensor in tensors_in(inputs))

    def number(self, tensor: torch.Tensor) -> int:
        """The value a tensor holds now; a tensor never seen before becomes a constant of the pass."""
        known = self._numbers.get(id(tensor))
        if known is not None:
            return known
        number = self._enter(tensor)
        if id(tensor) in self._blank:
            self.graph.uninitialised.add(number)
        elif id(tensor) in self._originals:
            self.graph.constants[number] = self._originals[id(tensor)][1]
            self.stand_ins[number] = id(tensor)
        return number

    def _enter(self, tensor: torch.Tensor) -> int:
        number = len(self.graph.values)
        with (
            torch._C.DisableTorchFunction()
        ):  # under a scripted function, asking for the shape would be a call to look at
            self.graph.values.append(Value(number, tuple(tensor.shape), tensor.dtype))
        self._numbers[id(tensor)] = number
        self._alive.append(tensor)
        return number

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # a scripted function leaves the watch over Python's calls on
            return self._noted(function, args, kwargs or {})

    def _noted(self, function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_unseen(function):
            made = function(*args, **kwargs)
            if isinstance(made, torch.Tensor):
                self._blank.add(id(made))
                self._alive.append(made)
            return made
        written_down = args[0] if function in _LITERALS and id(args[0]) not in self._numbers else None
        arguments = tuple(self._numbered(argument) for argument in args)
        keywords = {name: self._numbered(argument) for name, argument in kwargs.items()}
        if written_down is not None and type(written_down) is torch.Tensor and not written_down.is_meta:
            self.graph.constants[self._numbers[id(written_down)]] = written_down
        result = remembered.call(function, args, kwargs)
        returned = result if isinstance(result, (tuple, list)) else (result,)
        outputs: list[int | None] = []
        for output in returned:
            if isinstance(output, (tuple, list)):
                outputs.extend(self._enter(tensor) for tensor in output)
            else:
                outputs.append(self._enter(output) if isinstance(output, torch.Tensor) else None)
        operation = Operation(len(self.graph.operations), function, arguments, keywords, tuple(outputs), self._path)
        if self.calls is not None:
            operation.python = self.calls.name
            if self.calls.sequences:
                operation.integers = _origins(operation, self.calls.sequences)
        self.graph.operations.append(operation)
        return result

    def _numbered(self, argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return Reference(self.number(argument))
        if isinstance(argument, (list, tuple)):
            return tuple(self._numbered(element) for element in argument)
        return argument

    def watch_modules(self, model: nn.Module) -> None:
        """Note every module call of the shadow ``model``, for as long as it lives."""
        stack: list[tuple[str, tuple[int, ...], int]] = []

        def enter(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                entered = tuple(self.number(tensor) for tensor in tensors_in([*args, *kwargs.values()]))
                stack.append((self._path, entered, len(self.graph.operations)))
                self._path = path

            return hook

        def leave(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                outer, entered, first = stack.pop()
                returned = tuple(self.number(tensor) for tensor in tensors_in(output))
                self.graph.calls.append(ModuleCall(path, entered, returned, first, len(self.graph.operations)))
                self._path = outer

            return hook

        for path, module in model.named_modules():
            if isinstance(module, ScriptedPart):
                continue  # nobody can put a hook there: no place to look at features
            module.register_forward_pre_hook(enter(path), with_kwargs=True)
            module.register_forward_hook(leave(path))


def _origins(operation: Operation, sequences: list[tuple[int, ...]]) -> dict[str, tuple[Any, ...]]:
    """Which integer arguments of ``operation`` have a known expression: argument name -> one expression an element."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in _names_of_numbers(operation.function):
        given = operation.argument(name)
        if isinstance(given, bool) or given is None:
            continue
        wanted = (given,) if isinstance(given, int) else given
        if not isinstance(wanted, tuple) or not wanted or not all(isinstance(number, int) for number in wanted):
            continue
        for sequence in sequences:
            numbers = map(int.__int__, sequence)  # compared as plain ones, which is not the code's doing
            if len(sequence) == len(wanted) and all(a in (b, -1) for a, b in zip(numbers, wanted, strict=True)):
                found[name] = tuple(expression_of(number) for number in sequence)
                break
    return found


@lru_cache(maxsize=4096)
def _names_of_numbers(function: OpOverload) -> tuple[str, ...]:
    """The arguments that can be an integer or several; among them tensors, in whose place a number may stand."""
    others = ("Tensor", "bool", "float", "str", "Generator", "Device", "Layout")
    return tuple(
        argument.name
        for argument in function._schema.arguments
        if str(argument.type) == "Tensor" or not any(other in str(argument.type) for other in others)
    )
