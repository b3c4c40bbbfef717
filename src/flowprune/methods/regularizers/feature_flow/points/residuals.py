"""Find the residual additions and the convolution units of a traced pass."""

from __future__ import annotations

from dataclasses import dataclass

from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.operator_kinds import (
    is_activation,
    is_addition,
    is_convolution,
    is_layer,
    normalizes_maps,
)

_ALSO_LEARNED = ("aten.linear", "aten.bmm")


@dataclass(frozen=True)
class Residual:
    """One residual addition.

    Attributes:
        addition: the operation.
        end: value number of the block's output, after the activation where one follows at once.
        fork: value number of the tensor that both operands come from: what entered the block.
        interior: bit set of the values made between the fork and the addition.
    """

    addition: Operation
    end: int
    fork: int
    interior: int


def ancestry(graph: Graph) -> dict[int, int]:
    """Value number -> bit set of the values it is computed from, itself included; only values that depend on the input."""
    known = {value: 1 << value for value in graph.inputs}
    for operation in graph.operations:
        bits = 0
        for value in operation.reads:
            bits |= known.get(value, 0)
        if bits:
            for output in operation.outputs:
                if output is not None:
                    known[output] = bits | 1 << output
    return known


def find_residuals(graph: Graph, ancestors: dict[int, int]) -> list[Residual]:
    """Every addition of two different tensors of equal shape that fork from one feature, with something learned in between."""
    consumers = graph.consumers()
    learned = 0
    for operation in graph.operations:
        if (is_layer(operation) or operation.name in _ALSO_LEARNED) and operation.outputs[0] is not None:
            learned |= 1 << operation.outputs[0]
    found = []
    for operation in graph.operations:
        total = operation.outputs[0] if operation.outputs else None
        if total is None or not is_addition(operation):
            continue
        left, right = (operand.value for operand in operation.arguments[:2])
        shapes = {graph.values[value].shape for value in (left, right, total)}
        if left == right or len(shapes) != 1 or left not in ancestors or right not in ancestors:
            continue
        common = ancestors[left] & ancestors[right]
        if not common:
            continue
        fork = common.bit_length() - 1
        interior = (ancestors[left] | ancestors[right]) & ~ancestors[fork]
        if interior & learned:
            found.append(Residual(operation, _after_activation(total, consumers), fork, interior))
    return found


def _after_activation(value: int, consumers: dict[int, list[Operation]]) -> int:
    readers = consumers.get(value, [])
    if len(readers) == 1 and is_activation(readers[0]) and readers[0].outputs[0] is not None:
        return readers[0].outputs[0]
    return value


def unit_end(convolution: Operation, consumers: dict[int, list[Operation]], *, through_addition: bool) -> int | None:
    """The value a convolution unit ends in: after its normalisation and activation.

    With ``through_addition`` a residual addition in between belongs to the unit, so the last convolution of a block ends in the
    block's output.
    """
    value = convolution.outputs[0]
    while value is not None:
        readers = consumers.get(value, [])
        if len(readers) != 1:
            break
        reader = readers[0]
        inner = normalizes_maps(reader) or is_activation(reader)
        if not inner and not (through_addition and is_addition(reader)):
            break
        value = reader.outputs[0]
        if is_activation(reader):
            break
    return value


def convolutions(graph: Graph, ancestors: dict[int, int]) -> list[Operation]:
    """Every convolution of something that depends on the input, in order."""
    return [
        operation for operation in graph.operations if is_convolution(operation) and operation.outputs[0] in ancestors
    ]
