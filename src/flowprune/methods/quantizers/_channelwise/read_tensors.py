"""Which layers read the same tensor, and whether it can be negative: where a clip of activations belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from flowprune.engine.tracing import Graph, Operation, Reference, filter_layers, trace
from flowprune.engine.tracing.operator_kinds import is_convolution


def _named(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


_SAME_NUMBERS = _named(
    "view _unsafe_view reshape permute transpose t alias detach clone squeeze unsqueeze expand slice select"
)
_OF_ONE_SIGN = _SAME_NUMBERS | _named(
    "mean avg_pool2d _adaptive_avg_pool2d max_pool2d_with_indices max_pool2d native_dropout cat"
)


@dataclass(frozen=True)
class ReadTensor:
    """A tensor that layers weigh.

    Attributes:
        layers: dotted paths of those that read it, in execution order.
        signed: whether it may hold a negative number.
    """

    layers: tuple[str, ...]
    signed: bool


def read_tensors(model: nn.Module, inputs: Any) -> tuple[ReadTensor, ...]:
    """The tensors that the model's convolutions and linear layers read, whatever reshapes lie between, in execution order.

    A layer that is called several times counts for the tensor of its first call, which is signed where one of the others is.

    Args:
        model: any eager model; it is traced in evaluation mode and not touched.
        inputs: example inputs, as ``flowprune.plan`` takes them.

    Raises:
        TraceError, ModelError: as ``tracing.trace``.
    """
    graph = trace(model, inputs)
    producers = graph.producers()
    readers: dict[int, list[str]] = {}
    signed: dict[int, bool] = {}
    for layer in filter_layers(model, inputs, graph):
        sources = [_source(_read(graph.operations[index]), producers) for index, _ in layer.positions]
        readers.setdefault(sources[0], []).append(layer.name)
        negative = any(not _never_negative(source, graph, producers) for source in sources)
        signed[sources[0]] = signed.get(sources[0], False) or negative
    return tuple(ReadTensor(tuple(names), signed[value]) for value, names in readers.items())


def _read(operation: Operation) -> int:
    """The activations that a layer weighs."""
    names = ("input",) if is_convolution(operation) else ("mat1", "self")
    found = next(one for name in names if isinstance(one := operation.argument(name), Reference))
    return found.value


def _source(value: int, producers: dict[int, Operation]) -> int:
    """The tensor whose numbers these are, in another shape."""
    while (made := producers.get(value)) is not None and made.name in _SAME_NUMBERS and made.reads:
        value = made.reads[0]
    return value


def _never_negative(value: int, graph: Graph, producers: dict[int, Operation]) -> bool:
    made = producers.get(value)
    if made is None:
        return False
    if made.name in ("aten.relu", "aten.relu_", "aten.sigmoid", "aten.sigmoid_"):
        return True
    if made.name in ("aten.hardtanh", "aten.hardtanh_"):
        return float(made.argument("min_val", -1)) >= 0
    adds = made.name in ("aten.add", "aten.add_") and len(made.reads) == 2 and float(made.argument("alpha", 1)) >= 0
    pads = made.name == "aten.constant_pad_nd" and float(made.argument("value", 0)) >= 0
    if not (adds or pads or made.name in _OF_ONE_SIGN) or not made.reads:
        return False
    return all(_never_negative(read, graph, producers) for read in made.reads)
