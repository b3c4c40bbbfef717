"""Where in the evaluation pass a layer's feature maps can be seen: as made, normalised, activated, added to a residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowprune.engine.coupling.roles import layer_of
from flowprune.engine.coupling.rules import rule_of
from flowprune.engine.coupling.rules.pointwise import pointwise
from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.operator_kinds import adds_activations, is_arithmetic, is_batch_norm, is_copy, is_layer


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
        if not is_layer(operation):
            continue
        unit = layer_of(operation, graph)

        def see(stage: str, at: Operation, unit: str = unit) -> None:
            value = at.outputs[0]
            if value is not None:
                found.append(Sighting(unit, stage, value, (at.index, 0)))

        see("convolution", operation)
        current = operation
        normalization = _next(current, consumers, is_batch_norm)
        if normalization is not None:
            see("normalized", normalization)
            current = normalization
        activation = _next(current, consumers, _activates)
        if activation is not None:
            see("activated", activation)
            current = activation
        addition = _next(current, consumers, lambda candidate: adds_activations(candidate, graph))
        if addition is not None:
            after = _next(addition, consumers, _activates)
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


def _activates(operation: Operation) -> bool:
    """Pointwise, of one tensor, and more than a copy: an activation function, also one that the code writes out (a clamp), or an
    operator of the user's own that has the pointwise rule."""
    return (
        rule_of(operation) is pointwise
        and len(operation.inputs()) == 1
        and not is_copy(operation)
        and not is_arithmetic(operation)
    )
