"""Feature maps and the gradients of the loss with respect to them, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from flowprune.engine.tracing import Graph
from flowprune.engine.tracing.shadow import call_model
from flowprune.methods.importance._maps.map_watch import MapWatch, Position
from flowprune.methods.importance._passes.calibration_data import Loss
from flowprune.methods.importance._passes.gradients import loss_value


def maps_and_gradients(
    twin: nn.Module, graph: Graph, positions: Collection[Position], inputs: Any, targets: Any, loss: Loss
) -> dict[Position, tuple[torch.Tensor, torch.Tensor]]:
    """The maps at ``positions`` and the gradient of the batch's loss with respect to each.

    The node of an operator's gradient is attached to its result only after the watch has returned it, and a later
    operator in place (an activation) moves the tensor on to its own node; so the node is looked up when the next operator
    begins.

    Args:
        twin: a ``differentiable_shadow``.
        graph: the evaluation pass that the positions belong to.
        inputs, targets, loss: of one batch, as in ``gradients.loss_value``.

    Returns:
        (map, gradient), both of the map's shape; positions the loss does not depend on are left out.

    Raises:
        ModelError: the forward does not run the operators of ``graph``.
        Whatever ``gradients.loss_value`` raises.
    """
    values: dict[Position, torch.Tensor] = {}
    edges: dict[Position, GradientEdge] = {}
    fresh: list[tuple[Position, torch.Tensor]] = []

    def see(position: Position, tensor: torch.Tensor) -> None:
        values[position] = tensor.detach().clone()
        fresh.append((position, tensor))

    def look_up() -> None:
        for position, tensor in fresh:
            if tensor.grad_fn is not None:
                edges[position] = get_gradient_edge(tensor)
        fresh.clear()

    watch = MapWatch(graph, positions, see, look_up)
    with watch:
        output = call_model(twin, inputs)
    look_up()
    watch.check()
    value = loss_value(output, targets, loss)
    if not value.requires_grad or not edges:
        return {}
    found = torch.autograd.grad(value, list(edges.values()), allow_unused=True)
    return {
        position: (values[position], gradient)
        for position, gradient in zip(edges, found, strict=True)
        if gradient is not None
    }
