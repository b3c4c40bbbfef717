"""What a dead filter says from its batch norm on, whatever it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowprune.engine.constants.knowledge import Knowledge, learned
from flowprune.engine.coupling.roles import layer_of
from flowprune.engine.measuring.filter_scales import without_weights
from flowprune.engine.tracing import Graph, Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_convolution, is_layer


def constants_behind(
    operation: Operation, graph: Graph, producers: Mapping[int, Operation], tensors: Mapping[str, torch.Tensor]
) -> tuple[str, torch.Tensor] | None:
    """The layer in front of a batch norm, and the constant that comes closest to what each of its filters says.

    A filter whose weights are all zero says ``beta + gamma (bias - running_mean) / sqrt(running_var + eps)``, exactly. One that
    still varies says beta on average, as far as the running statistics are those of the weights.
    """
    maker = producers.get(operation.argument("input").value)
    if maker is None or not is_layer(maker):
        return None

    def tensor(argument: Any) -> torch.Tensor | None:
        name = graph.parameters.get(argument.value) if isinstance(argument, Reference) else None
        return tensors[name].detach() if name is not None else None

    mean, variance = tensor(operation.argument("running_mean")), tensor(operation.argument("running_var"))
    if mean is None or variance is None:
        return None
    gamma, beta = tensor(operation.argument("weight")), tensor(operation.argument("bias"))
    bias = tensor(maker.argument("bias") if is_convolution(maker) else maker.argument("self"))
    epsilon = operation.argument("eps", operation.argument("epsilon", 1e-5))
    if operation.argument("training", False):  # by the batch's statistics a filter without weights is at its mean, too
        return layer_of(maker, graph), torch.zeros_like(mean) if beta is None else beta
    centred = ((0 if bias is None or bias.dim() != 1 else bias) - mean) * _without_weights(maker, graph, mean, tensors)
    constant = (1 if gamma is None else gamma) * centred / torch.sqrt(variance + epsilon)
    return layer_of(maker, graph), constant + (0 if beta is None else beta)


def _without_weights(
    maker: Operation, graph: Graph, like: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """[filters] bool: whether all weights of a convolution's or product's filter are zero; False where they cannot be told."""
    argument = maker.argument("weight") if is_convolution(maker) else maker.argument("mat2")
    transposed = not is_convolution(maker) or bool(maker.argument("transposed", False))
    view = graph.producers().get(argument.value)
    if view is not None and view.name == "aten.t":
        argument, transposed = view.argument("self"), False
    name = graph.parameters.get(argument.value)
    if name is not None:
        groups = int(maker.argument("groups", 1)) if is_convolution(maker) else 1
        silent = without_weights(tensors[name].detach(), transposed, groups)
        if len(silent) == len(like):
            return silent
    return torch.zeros(len(like), dtype=torch.bool, device=like.device)


def with_dead_filters(
    operation: Operation,
    known: Knowledge | None,
    graph: Graph,
    producers: Mapping[int, Operation],
    dead: Mapping[str, NDArray[np.bool_]],
    tensors: Mapping[str, torch.Tensor],
) -> Knowledge | None:
    """What is known behind a batch norm, together with what the dead filters in front of it say."""
    found = constants_behind(operation, graph, producers, tensors)
    if found is None or found[0] not in dead or not dead[found[0]].any():
        return known
    layer, constant = found
    return _told(operation, known, graph, torch.from_numpy(dead[layer]).to(constant.device), constant)


def with_filters_without_weights(
    operation: Operation,
    known: Knowledge | None,
    graph: Graph,
    dead: Mapping[str, NDArray[np.bool_]],
    tensors: Mapping[str, torch.Tensor],
) -> Knowledge | None:
    """What is known behind a convolution or product, together with what its dead filters without weights say: their bias."""
    layer, value = layer_of(operation, graph), operation.outputs[0]
    if layer not in dead or not dead[layer].any() or value is None or operation.argument("beta", 1) != 1:
        return known
    argument = operation.argument("bias") if is_convolution(operation) else operation.argument("self")
    nothing = torch.zeros(len(dead[layer]), dtype=graph.values[value].dtype)
    silent = _without_weights(operation, graph, nothing, tensors)
    bias = nothing.to(silent.device)
    if isinstance(argument, Reference) and (is_convolution(operation) or operation.name == "aten.addmm"):
        name = graph.parameters.get(argument.value)
        if name is None or tensors[name].shape != bias.shape:
            return known
        bias = tensors[name].detach()
    silent = silent & torch.from_numpy(dead[layer]).to(silent.device)
    return _told(operation, known, graph, silent, bias) if silent.any() else known


def _told(
    operation: Operation, known: Knowledge | None, graph: Graph, mask: torch.Tensor, constant: torch.Tensor
) -> Knowledge | None:
    """What is known of an operation's result, together with the constants of some of its channels."""
    value = operation.outputs[0]
    assert value is not None
    made = graph.values[value]
    if len(made.shape) < 2 or made.shape[1] != len(mask):
        return known
    shape = [1, -1] + [1] * (len(made.shape) - 2)
    silent = mask.reshape(shape).expand(made.shape)
    said = torch.where(mask, constant, torch.zeros_like(constant)).to(made.dtype).reshape(shape).expand(made.shape)
    if known is None:
        return learned(said, silent)
    return learned(torch.where(silent, said, known.values), known.mask() | silent)
