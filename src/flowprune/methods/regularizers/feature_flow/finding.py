"""From a model and example inputs to its trajectory; also inside the model's own first forward, by way of a hook."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from flowprune.engine.tracing import Graph, first_tensor, trace
from flowprune.errors import RecipeError, TraceError, UnknownNameError
from flowprune.methods.regularizers.feature_flow.maps.links import links_of
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory, trajectory_of
from flowprune.methods.regularizers.feature_flow.points.chaining import chained
from flowprune.methods.regularizers.feature_flow.points.points import Point, check_names, find_points, named_points
from flowprune.methods.regularizers.feature_flow.unwrapping import call_inputs

Layout = Literal["blocks", "layers"]


def layout_or_names(points: Layout | Sequence[str], root: nn.Module) -> Layout | tuple[str, ...]:
    """What ``FeatureFlow`` was given as ``points``, checked.

    Raises:
        UnknownNameError: for an unknown layout or module name.
        RecipeError: for fewer than two modules.
    """
    if points == "blocks" or points == "layers":
        return points
    if isinstance(points, str):
        raise UnknownNameError("points", points, ("blocks", "layers"))
    if len(points) < 2:
        raise RecipeError(f"points={list(points)} names fewer than two modules; a flow needs two points")
    check_names(root, points)
    return tuple(points)


def find_trajectory(
    root: nn.Module,
    inputs: Any,
    chosen: Layout | tuple[str, ...],
    across: Literal["skip", "project"] | None,
) -> tuple[Trajectory, Sequence[Point]]:
    """Trace the model once and lay the trajectory through it; also the points to take down.

    Raises:
        TraceError: if the forward cannot be recorded and no modules were named, which do without.
        ModelError: if no points are found.
    """
    graph: Graph | None = None
    try:
        # Autocast would put casts between the operators, and the passages would carry them along.
        with torch.autocast(first_tensor(inputs).device.type, enabled=False):
            graph = trace(root, inputs)
    except TraceError:
        if isinstance(chosen, str):
            raise
    unplaced: dict[str, str] = {}
    if isinstance(chosen, str):
        assert graph is not None
        points, unplaced = find_points(graph, chosen)
        points = chained(points, graph)
    else:
        points = named_points(root, chosen, graph)
    trajectory = trajectory_of(points, graph, across, unplaced)
    if graph is not None:
        shapes = [None if point.value is None else torch.Size(graph.values[point.value].shape) for point in points]
        trajectory.left_out = links_of(trajectory, shapes)[1]
    return trajectory, points


def finder(
    root: nn.Module, find: weakref.WeakMethod[Callable[[Any], Sequence[Point]]]
) -> Callable[[tuple[Any, ...], dict[str, Any]], Sequence[Point]]:
    """For the recorder's hooks: ``find`` on the arguments of a forward. They must not keep the flow alive, which ``find`` belongs
    to: dropping it is one way to close it.
    """

    def found(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Sequence[Point]:
        method = find()
        return () if method is None else method(call_inputs(root, arguments, keywords))

    reason = "FeatureFlow finds its points in the first forward; give it inputs= to find them at once"
    disabled: Callable[[tuple[Any, ...], dict[str, Any]], Sequence[Point]] = torch.compiler.disable(
        found, reason=reason
    )
    return disabled
