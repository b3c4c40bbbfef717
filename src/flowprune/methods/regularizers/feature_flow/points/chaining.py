"""Chain points to trajectories: one in a network whose features come one after the other, several where they branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from flowprune.engine.tracing import Graph
from flowprune.methods.regularizers.feature_flow.points.points import Point
from flowprune.methods.regularizers.feature_flow.points.residuals import ancestry


def chained(points: Sequence[Point], graph: Graph) -> list[Point]:
    """The points with their trajectories' numbers, trajectory by trajectory, in order of execution within each.

    A point goes on where the last point it is computed from ends a trajectory; beside others that already go on from there it
    begins a new one. Where features are concatenated (DenseNet, Inception) a point rather goes on from the last one of its own
    shape that it is computed from, and never crosses a concatenation into another shape.
    """
    ancestors = ancestry(graph)
    joins = _concatenations(graph, ancestors)
    trajectories: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.value or 0):
        assert point.value is not None
        above = [line for line in trajectories if ancestors[point.value] >> _value(line[-1]) & 1]
        before = [one for line in trajectories for one in line if ancestors[point.value] >> _value(one) & 1]
        nearest = max(before, key=_value, default=None)
        going_on = [line for line in above if line[-1] is nearest]
        if joins:
            alike = [line for line in above if _shape(graph, line[-1]) == _shape(graph, point)]
            since = ancestors[point.value] & ~(ancestors[_value(nearest)] if nearest is not None else 0)
            going_on = sorted(alike, key=lambda line: _value(line[-1]))[-1:] or ([] if since & joins else going_on)
        if going_on:
            going_on[0].append(point)
        else:
            trajectories.append([point])
    return [replace(point, flow=number) for number, line in enumerate(trajectories) for point in line]


def _value(point: Point) -> int:
    assert point.value is not None
    return point.value


def _shape(graph: Graph, point: Point) -> tuple[int, ...]:
    return graph.values[_value(point)].shape


def _concatenations(graph: Graph, ancestors: dict[int, int]) -> int:
    """Bit set of the values that hold several features of the input side by side, in its channels."""
    found = 0
    for operation in graph.operations:
        output = operation.outputs[0] if operation.outputs else None
        if operation.name != "aten.cat" or output is None:
            continue
        features = [value for value in operation.reads if value in ancestors]
        shapes = [graph.values[value].shape for value in (*features, output)]
        beside = all(len(shape) > 2 and shape[2:] == shapes[-1][2:] for shape in shapes)
        if len(set(features)) > 1 and beside and prod(shapes[-1][2:]) > 1:
            found |= 1 << output
    return found
