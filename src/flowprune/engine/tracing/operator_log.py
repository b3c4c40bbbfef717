"""The log of a pass: every tensor numbered, every operator and every module call written down as it runs.

Python's calls of torch are looked at, too, because C++ drops where the integers they are given came from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from flowprune.engine.tracing import remembered
from flowprune.engine.tracing.expressions import Expression
from flowprune.engine.tracing.graph import Graph, ModuleCall, Operation, Reference, Value
from flowprune.engine.tracing.integers import CUTTING, SLICING, Integer, integers_given, origins_of
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


_LITERALS = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)
"""What ``torch.tensor([...])`` calls on the numbers that the code holds."""


@dataclass
class PythonCall:
    """The Python-level call that is running. Modes that knew each other would leave every pass to the cyclic collector."""

    name: str = ""
    sequences: list[tuple[int, ...]] = field(default_factory=list)


class OperatorLog(TorchDispatchMode):
    """Numbers every tensor and writes down every operator."""

    def __init__(
        self,
        modules: Sequence[tuple[str, nn.Module]],
        inputs: Any,
        training: bool,
        originals: dict[int, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """What runs in ``modules`` (of a shadow, with their paths, shared ones by each) will be written down.

        Args:
            modules: the shadow's own first.
            inputs: what it will be called on.
            training: the mode it is in.
            originals: id of a stand-in -> it, and the tensor it stands for.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph(training=training)
        self._originals = originals
        self._blank: set[int] = set()
        self.stand_ins: dict[int, int] = {}
        self.running = PythonCall()
        self._numbers: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []  # an id is only unique while its tensor lives
        self._path = ""
        for table in ("_parameters", "_buffers"):
            for path, module in modules:
                for own, tensor in getattr(module, table).items():
                    if tensor is not None:
                        name = f"{path}.{own}" if path else own
                        value = self.number(tensor)
                        self.graph.aliases[name] = self.graph.parameters.setdefault(value, name)
        self._watch(modules)
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
        # Under a scripted function, asking for the shape would be a call to look at.
        with torch._C.DisableTorchFunction():
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
        operation.python = self.running.name
        if self.running.sequences:
            operation.integers = origins_of(operation, self.running.sequences)
        self.graph.operations.append(operation)
        return result

    def _numbered(self, argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return Reference(self.number(argument))
        if isinstance(argument, (list, tuple)):
            return tuple(self._numbered(element) for element in argument)
        return argument

    def _watch(self, modules: Sequence[tuple[str, nn.Module]]) -> None:
        """Note every call of the modules, for as long as they live."""
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

        first = {id(module): path for path, module in reversed(modules)}
        for path, module in modules:
            if first[id(module)] != path or isinstance(module, ScriptedPart):
                continue  # the second: nobody can put a hook there, so it is no place to look at features
            module.register_forward_pre_hook(enter(path), with_kwargs=True)
            module.register_forward_hook(leave(path))


_PAST_OPERATORS = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"})
"""Methods of a tensor that hand out its numbers: what is done with them, no operator shows."""
_SIZES_OF_TENSORS = frozenset({"size", "numel", "nelement", "__len__"})
"""Methods of a tensor that return one integer, made of its sizes."""


class PythonCalls(TorchFunctionMode):
    """Remembers which Python-level call is running and its integers, because C++ drops their provenance.

    It also makes the sizes that code reads off a tensor remember which tensor and dimension they are of.
    """

    def __init__(self, log: OperatorLog, provenance: bool) -> None:
        super().__init__()
        self._log = log
        self._provenance = provenance

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        running = self._log.running
        outer = running.sequences, running.name
        name = running.name = getattr(function, "__name__", "")
        of_tensor = bool(args) and isinstance(args[0], torch.Tensor)
        if self._provenance:
            cut = self._log.number(args[0]) if of_tensor and (name in SLICING or name in CUTTING) else None
            running.sequences = integers_given(name, args, kwargs or {}, cut)
        if of_tensor and name in _PAST_OPERATORS:
            self._log.graph.escaped[self._log.number(args[0])] = name
        try:
            result = function(*args, **(kwargs or {}))
        finally:
            running.sequences, running.name = outer
        if isinstance(result, torch.Size):
            number = self._log.number(args[0])  # in every pass alike, so that their values have the same numbers
            if not self._provenance:
                return result
            return torch.Size([Integer(size, ("size", number, place)) for place, size in enumerate(result)])
        if self._provenance and name in _SIZES_OF_TENSORS and isinstance(result, int):
            number, rank = self._log.number(args[0]), args[0].dim()
            if name == "size":
                place = args[1] if len(args) > 1 else (kwargs or {})["dim"]
                return Integer(result, ("size", number, place % rank))
            if name == "__len__":  # Python makes a plain number of it
                return int(Integer(result, ("size", number, 0)))
            sizes: list[Expression] = [("size", number, place) for place in range(rank)]
            return Integer(result, functools.reduce(lambda left, right: ("*", left, right), sizes, ("number", 1)))
        return result
