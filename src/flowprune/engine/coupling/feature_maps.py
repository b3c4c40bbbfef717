"""Where in the evaluation pass a layer's feature maps can be seen: as made, normalised, activated, added to a residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowprune.engine.coupling.roles import layer_of
from flowprune.engine.coupling.rules import rule_of
from flowprune.engine.coupling.rules.normalization import batch_norm
from flowprune.engine.coupling.rules.pointwise import pointwise
from flowprune.engine.tracing import Graph, Operation, Reference

_COPIES = (
    *("aten.clone", "aten._to_copy", "aten.alias", "aten.detach", "aten.lift_fresh", "aten.copy_"),
    *("aten.native_dropout", "aten.bernoulli", "aten.zeros_like"),
)


@dataclass(frozen=True)
class Sighting:
    """A tensor of the pass that shows a unit's channels at one stage."""

    unit: str
    stage: str
    value: int
    position: tuple[int, int]


def sightings(graph: Graph) -> list[Sighting]:
    """Every convolution's and linear layer's feature map at the stages it goes through, in execution order."""
    consumers = graph.consumers()
    found: list[Sighting] = []
    for operation in graph.operations:
        if operation.name not in ("aten.convolution", "aten._convolution", "aten.mm", "aten.addmm"):
            continue
        unit = layer_of(operation, graph)

        def see(stage: str, at: Operation, unit: str = unit) -> None:
            value = at.outputs[0]
            if value is not None:
                found.append(Sighting(unit, stage, value, (at.index, 0)))

        see("convolution", operation)
        current = operation
        normalization = _next(current, consumers, _is_normalization)
        if normalization is not None:
            see("normalized", normalization)
            current = normalization
        activation = _next(current, consumers, _is_activation)
        if activation is not None:
            see("activated", activation)
            current = activation
        addition = _next(current, consumers, lambda candidate: _is_addition(candidate, graph))
        if addition is not None:
            after = _next(addition, consumers, _is_activation)
            see("added", after if after is not None else addition)
    return found


def _next(
    operation: Operation, consumers: dict[int, list[Operation]], wanted: Callable[[Operation], bool]
) -> Operation | None:
    value = operation.outputs[0]
    for candidate in consumers.get(value, ()) if value is not None else ():
        if wanted(candidate):
            return candidate
    return None


def _is_normalization(operation: Operation) -> bool:
    return rule_of(operation) is batch_norm


def _is_activation(operation: Operation) -> bool:
    """Pointwise, of one tensor, and more than a copy."""
    return (
        rule_of(operation) is pointwise
        and len(operation.inputs()) == 1
        and operation.name not in _COPIES
        and not operation.name.startswith(("aten.add", "aten.mul", "aten.div", "aten.sub"))
    )


def _is_addition(operation: Operation, graph: Graph) -> bool:
    tensors = [a for a in operation.arguments if isinstance(a, Reference)]
    return (
        operation.name in ("aten.add", "aten.add_")
        and len(tensors) == 2
        and graph.values[tensors[0].value].shape == graph.values[tensors[1].value].shape
        and not any(tensor.value in graph.parameters for tensor in tensors)
    )
