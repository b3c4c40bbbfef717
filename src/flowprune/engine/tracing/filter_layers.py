"""The convolutions and linear layers of a model, each with the batch norm that follows it, read off a trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from flowprune.engine.tracing.graph import Graph, Operation, Reference
from flowprune.engine.tracing.operator_kinds import adds_activations, is_batch_norm, is_convolution, is_product
from flowprune.engine.tracing.recorder import trace


@dataclass(frozen=True)
class FollowingNorm:
    """A batch norm with running statistics, by the names of its tensors; ``weight`` and ``bias`` are None where it has
    none."""

    weight: str | None
    bias: str | None
    running_mean: str
    running_var: str
    eps: float


@dataclass(frozen=True)
class FilterLayer:
    """A convolution or linear layer.

    Attributes:
        name: dotted path of the layer.
        kind: "convolution" or "linear".
        weight: dotted name of its weight.
        filters: how many output channels it has.
        channel_dimension: of its output.
        groups: convolution groups.
        transposed: whether it is a transposed convolution.
        norm: the batch norm that alone reads its output, in every call; None where there is none, or not the same one.
        positions: (operation index, output index) of its output in every call, for ``tracing.observe``.
        branch_end: whether its (normalised) output goes straight into an addition, as the last convolution of a
            residual branch.
    """

    name: str
    kind: str
    weight: str
    filters: int
    channel_dimension: int
    groups: int
    transposed: bool
    norm: FollowingNorm | None
    positions: tuple[tuple[int, int], ...]
    branch_end: bool


def filter_layers(model: nn.Module, inputs: Any, graph: Graph | None = None) -> tuple[FilterLayer, ...]:
    """The layers whose weight is a parameter of the model, in execution order.

    Args:
        model: any eager model; it is traced in evaluation mode on a shadow and not touched.
        inputs: example inputs: a tensor, a tuple of tensors or a dictionary of them.
        graph: the evaluation pass, where the caller has traced it already.

    Raises:
        TraceError, ModelError: as ``tracing.trace``.
    """
    graph = graph or trace(model, inputs)
    consumers, producers = graph.consumers(), graph.producers()
    calls: dict[str, list[FilterLayer]] = {}
    for operation in graph.operations:
        layer = _layer(operation, graph, consumers, producers)
        if layer is not None:
            calls.setdefault(layer.weight, []).append(layer)
    return tuple(_merged(found) for found in calls.values())


def _layer(
    operation: Operation, graph: Graph, consumers: dict[int, list[Operation]], producers: dict[int, Operation]
) -> FilterLayer | None:
    output = operation.outputs[0] if operation.outputs else None
    if output is None:
        return None
    groups, transposed = 1, False
    if is_convolution(operation):
        weight, kind = operation.argument("weight"), "convolution"
        groups, transposed = int(operation.argument("groups", 1)), bool(operation.argument("transposed", False))
    elif is_product(operation):
        weight, kind = operation.argument("mat2"), "linear"
        maker = producers.get(weight.value)
        if maker is None or maker.name != "aten.t":
            return None
        weight = maker.argument("self")
    else:
        return None
    name = graph.parameters.get(weight.value) if isinstance(weight, Reference) else None
    if name is None:
        return None
    readers = consumers.get(output, [])
    norm = _norm(readers[0], graph) if len(readers) == 1 else None
    end = readers[0].outputs[0] if norm is not None else output
    added = end is not None and any(adds_activations(reader, graph) for reader in consumers.get(end, []))
    return FilterLayer(
        name=name.rpartition(".")[0] or name,
        kind=kind,
        weight=name,
        filters=graph.values[output].shape[1],
        channel_dimension=1,
        groups=groups,
        transposed=transposed,
        norm=norm,
        positions=((operation.index, 0),),
        branch_end=added,
    )


def _norm(operation: Operation, graph: Graph) -> FollowingNorm | None:
    if not is_batch_norm(operation) or operation.argument("training", False):
        return None  # by the statistics of the batch, the running ones say nothing

    def named(argument: str) -> str | None:
        tensor = operation.argument(argument)
        return graph.parameters.get(tensor.value) if isinstance(tensor, Reference) else None

    mean, variance = named("running_mean"), named("running_var")
    if mean is None or variance is None:
        return None
    eps = operation.argument("eps", operation.argument("epsilon"))
    return FollowingNorm(named("weight"), named("bias"), mean, variance, float(eps))


def _merged(calls: list[FilterLayer]) -> FilterLayer:
    """One layer from all its calls; with different norms behind them it counts as having none."""
    first = calls[0]
    return replace(
        first,
        norm=first.norm if all(call.norm == first.norm for call in calls) else None,
        positions=tuple(position for call in calls for position in call.positions),
        branch_end=any(call.branch_end for call in calls),
    )
