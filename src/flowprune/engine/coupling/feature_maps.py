"""Where in the evaluation pass a layer's feature maps can be seen: as made, normalised, activated, added to a residual stream.

Only criteria that look at maps ask, so a group's are found when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from flowprune.engine.coupling.dense_propagation import Analysis
from flowprune.engine.coupling.groups import FeatureMap
from flowprune.engine.coupling.labels import Array
from flowprune.engine.coupling.roles import layer_of
from flowprune.engine.coupling.rules import rule_of
from flowprune.engine.coupling.rules.pointwise import pointwise
from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.operator_kinds import adds_activations, is_arithmetic, is_batch_norm, is_copy, is_layer


@dataclass(eq=False)
class FeatureMaps:
    """The feature maps of all groups of a model.

    Attributes:
        evaluation: the propagation whose tensors they are.
        roots: [labels]: the component of every label.
        places: components along a dimension -> the groups in it, and where each of their channels sits, [channels, k].
        count: how many groups there are.
    """

    evaluation: Analysis
    roots: Array
    places: Callable[[Array], Iterator[tuple[int, Array]]]
    count: int

    @cached_property
    def of_groups(self) -> list[tuple[FeatureMap, ...]]:
        """For each group, its maps in execution order."""
        maps: list[list[FeatureMap]] = [[] for _ in range(self.count)]
        for seen in sightings(self.evaluation.graph):
            for block in self.evaluation.layouts.get(seen.value, ()):
                if len(block.dimensions) == 1:
                    for group, indices in self.places(self.roots[block.labels]):
                        maps[group].append(
                            FeatureMap(seen.position, block.dimensions[0], indices, seen.stage, seen.unit)
                        )
        return [tuple(found) for found in maps]


@dataclass(eq=False)
class MapsOfGroup(Sequence[FeatureMap]):
    """One group's."""

    all: FeatureMaps
    group: int

    @overload
    def __getitem__(self, index: int) -> FeatureMap: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FeatureMap]: ...
    def __getitem__(self, index: int | slice) -> FeatureMap | Sequence[FeatureMap]:
        return self.all.of_groups[self.group][index]

    def __len__(self) -> int:
        return len(self.all.of_groups[self.group])


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
        and len(operation.reads) == 1
        and not is_copy(operation)
        and not is_arithmetic(operation)
    )
