"""Walk through a traced pass and carry on what is known whatever the inputs are: an abstract interpretation.

The operators of the trace are interpreted, one by one; the model itself does not run. Parameters and buffers are known, and so is
what code makes of nothing (tables of positions). Every input is unknown, whole numbers and truth values too, and so are random
numbers. A dead filter is known to say its constant from its batch norm on.

From where Python takes a number out of a tensor that is not known (``int(x.max())``), the numbers and shapes that code goes on
with may be others for other inputs, so from there on nothing is known any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flowprune.engine.constants.aliasing import Memory, is_view_in_place, memory_of, written_by
from flowprune.engine.constants.bounded import bounded_values
from flowprune.engine.constants.call import Call, Operand
from flowprune.engine.constants.knowledge import Knowledge, nothing
from flowprune.engine.constants.rules import Learned, rule_for
from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.data_decides import hands_out_numbers

Look = Callable[[Operation, Callable[[int], Knowledge | None], frozenset[int]], None]
"""Called before each operation, with what is known of a value at that moment, and the values that are finite anyway."""

Told = Callable[[Operation, Knowledge | None], Knowledge | None]
"""(operation, what is known of its first output) -> what is known of it by whoever asks."""


def interpret(
    graph: Graph, tensors: Mapping[str, Tensor], inputs: Any, look: Look, told: Told = lambda operation, known: known
) -> dict[int, Knowledge]:
    """Carry knowledge through ``graph``.

    Args:
        graph: a traced pass.
        tensors: dotted name -> parameter or buffer of the model.
        inputs: the example inputs it was traced with; a Python number among them may be another one, so nothing is known then.
        look: sees each operation before it is interpreted.
        told: adds what the caller knows of an operation's first output.

    Returns:
        Value number -> what is known of it in the end, for the outputs of the pass of which anything is.
    """
    walk = _Walk(graph, tensors, inputs)
    with torch.no_grad():
        walk.run(look, told)
    return {value: walk.held[value] for value in graph.outputs if value in walk.held}


class _Walk:
    """What is known of every value that some operation still reads."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], inputs: Any) -> None:
        self.graph = graph
        self.memory: Memory = memory_of(graph)
        self.bounded = bounded_values(graph, self.memory)
        self.device = next((t.device for t in tensors.values()), torch.device("cpu"))
        self.held: dict[int, Knowledge] = {}
        self.reads = Counter(value for operation in graph.operations for value in set(operation.reads))
        self.lost = (
            graph.draws or graph.counts or any(type(leaf) in (int, float, complex) for leaf in tree_leaves(inputs))
        )
        self._begin(tensors)

    def _begin(self, tensors: Mapping[str, Tensor]) -> None:
        for value, name in self.graph.parameters.items():
            if name in tensors and name not in self.graph.replaced:
                self._hold_constant(value, tensors[name].detach())
        for value, tensor in self.graph.constants.items():
            self._hold_constant(value, tensor.detach())
        for value in self.graph.uninitialised:
            made = self.graph.values[value]
            self.held[value] = nothing(made.shape, made.dtype, self.device)
        if any(value in self.graph.escaped for value in self.graph.inputs):
            self.lost = True

    def _hold_constant(self, value: int, tensor: Tensor) -> None:
        """A tensor that the pass writes into is another one in the next pass."""
        usable = not tensor.is_meta and tensor.layout is torch.strided and not tensor.is_quantized
        if usable and self.memory.root[value] not in self.memory.written:
            self.held[value] = Knowledge(tensor)

    def run(self, look: Look, told: Told) -> None:
        for operation in self.graph.operations:
            look(operation, self.held.get, self.bounded)
            learned = self._learned(operation)
            if learned and operation.outputs[0] is not None:
                learned[0] = told(operation, learned[0])
            written = written_by(operation)
            if written and not is_view_in_place(operation):
                self._write(operation, written, learned)
            else:
                self._keep(operation, learned)
            self._go_on(operation)

    def _learned(self, operation: Operation) -> list[Knowledge | None]:
        """What the operation's rule says; nothing where it cannot be carried out on what is known."""
        unknown: list[Knowledge | None] = [None] * len(operation.outputs)
        if self.lost:
            return unknown
        plain = _out_of_place(operation)
        if plain is None:
            return unknown
        call = Call(plain, self._operand, self.device, self.bounded.__contains__)
        try:
            found: Learned = rule_for(plain)(call)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return unknown  # an operator that torch does not run on these values has no known result
        return [*found, *unknown[len(found) :]]

    def _operand(self, value: int) -> Operand:
        made = self.graph.values[value]
        return Operand(value, made.shape, made.dtype, self.held.get(value))

    def _keep(self, operation: Operation, learned: list[Knowledge | None]) -> None:
        for value, knowledge in zip(operation.outputs, learned, strict=True):
            if value is None or knowledge is None or not self._fits(value, knowledge):
                continue
            root = self.memory.root[value]
            if root in self.memory.written:
                if root == value:
                    knowledge = Knowledge(knowledge.values.clone(), knowledge.mask().clone())
                elif not self._shares(operation, knowledge):
                    continue
            self.held[value] = knowledge

    def _fits(self, value: int, knowledge: Knowledge) -> bool:
        made = self.graph.values[value]
        return knowledge.values.shape == made.shape and knowledge.values.dtype == made.dtype

    def _shares(self, operation: Operation, knowledge: Knowledge) -> bool:
        """Whether a view that is written into later is a view here, too, in its values and its mask."""
        source = self.held.get(operation.reads[0])
        if source is None or source.known is None or knowledge.known is None:
            return False
        pairs = ((source.values, knowledge.values), (source.known, knowledge.known))
        return all(a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() for a, b in pairs)

    def _write(self, operation: Operation, written: list[int], learned: list[Knowledge | None]) -> None:
        """Write what is known into the memory that all views share; where that cannot be done, forget all of it.

        What is held of one memory shares one memory here, too, at every moment.
        """
        outputs = operation.outputs
        root = self.memory.root[written[0]]
        result = outputs[0] if len(outputs) == 1 else None
        if len(written) != 1 or result is None or self.memory.root[result] != root:
            for value in written:
                self._forget(self.memory.root[value])
            return
        target, knowledge = self.held.get(written[0]), learned[0]
        if target is not None and target.known is not None:
            if knowledge is None or knowledge.values.shape != target.values.shape:
                target.known.fill_(False)
            else:
                target.values.copy_(knowledge.values)
                target.known.copy_(knowledge.mask())
            self.held[result] = target
            return
        self._forget(root)
        if knowledge is not None and self._fits(result, knowledge):
            self.held[result] = Knowledge(knowledge.values.clone(), knowledge.mask().clone())

    def _forget(self, root: int) -> None:
        for value in [value for value in self.held if self.memory.root[value] == root]:
            del self.held[value]

    def _go_on(self, operation: Operation) -> None:
        """Whether code may go on otherwise for other inputs; and let go of what nobody reads any more."""
        if not self.lost and hands_out_numbers(operation, self.graph):
            self.lost = not all(self._is_whole(value) for value in operation.reads)
        if not self.lost and any(
            v in self.graph.escaped and not self._is_whole(v) for v in operation.outputs if v is not None
        ):
            self.lost = True
        for value in set(operation.reads):
            self.reads[value] -= 1
            if (
                not self.reads[value]
                and value not in self.graph.outputs
                and self.memory.root[value] not in self.memory.written
            ):
                self.held.pop(value, None)

    def _is_whole(self, value: int) -> bool:
        knowledge = self.held.get(value)
        return knowledge is not None and knowledge.is_whole()


def _out_of_place(operation: Operation) -> Operation | None:
    """The operation that makes a new tensor of what this one writes; itself where it writes nothing; None where there is none."""
    if not written_by(operation):
        return operation
    packet = getattr(torch.ops.aten, operation.name.removeprefix("aten.").removesuffix("_"), None)
    if packet is None or not operation.name.startswith("aten.") or not operation.name.endswith("_"):
        return None
    names = [argument.name for argument in operation.function._schema.arguments]
    for overload in (operation.function._overloadname, *packet.overloads()):
        function = getattr(packet, overload, None)
        if function is not None and [argument.name for argument in function._schema.arguments] == names:
            return Operation(
                operation.index, function, operation.arguments, operation.keywords, operation.outputs, operation.module
            )
    return None
