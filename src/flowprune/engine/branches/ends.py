"""The ends of residual branches in a traced pass: which module makes them, and what of the model is there for them alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from flowprune.engine.surgery.branch_modules import can_be_placed
from flowprune.engine.tracing import FilterLayer, Graph, Operation
from flowprune.engine.tracing.operator_kinds import adds_activations, rectifier


@dataclass(frozen=True)
class BranchEnd:
    """Where a branch meets its stream.

    Attributes:
        layer: the layer whose filters are the ends, with the batch norm behind it.
        module: dotted path of that batch norm.
        value: number of its output in the pass.
        rank: number of dimensions of that output.
        positions: of one channel of an image.
        addition: the operation that adds it to the stream.
        alone: indices of the operations that nothing but this end needs.
        tensors: names of the parameters and buffers that only those operations read.
    """

    layer: FilterLayer
    module: str
    value: int
    rank: int
    positions: int
    addition: Operation
    alone: frozenset[int]
    tensors: frozenset[str]


def find_ends(model: nn.Module, graph: Graph, layers: Iterable[FilterLayer]) -> tuple[list[BranchEnd], dict[str, str]]:
    """The branch ends that could be opened, in execution order; and for the others, layer -> why not.

    Args:
        model: the traced model.
        graph: its evaluation pass.
        layers: its filter layers.
    """
    found: list[BranchEnd] = []
    refused: dict[str, str] = {}
    consumers = graph.consumers()
    for layer in layers:
        if not layer.branch_end:
            continue
        if layer.norm is None or len(layer.positions) != 1:
            refused[layer.name] = (
                "it has no batch norm of its own" if layer.norm is None else "it is called several times"
            )
            continue
        output = graph.operations[layer.positions[0][0]].outputs[0]
        norm = consumers[-1 if output is None else output][0]
        value = norm.outputs[0]
        module = model.get_submodule(norm.module)
        calls = [call for call in graph.calls if call.path == norm.module]
        if value is None or not can_be_placed(module):
            refused[layer.name] = f"what normalises it is no batch norm but a {type(module).__name__}"
        elif len(calls) != 1:
            refused[layer.name] = f"{norm.module} is called several times"
        elif calls[0].outputs != (value,):
            refused[layer.name] = f"{norm.module} does more than normalise"
        else:
            addition = next(reader for reader in consumers[value] if adds_activations(reader, graph))
            shape = graph.values[value].shape
            alone = _alone(graph, norm)
            own = _tensors_of(graph, alone)
            found.append(BranchEnd(layer, norm.module, value, len(shape), prod(shape[2:]), addition, alone, own))
    return found, refused


def _alone(graph: Graph, end: Operation) -> frozenset[int]:
    """The operations whose results reach nothing but ``end``, itself included."""
    consumers = graph.consumers()
    inside = {end.index}
    kept = set(graph.outputs) | set(graph.escaped)
    for operation in reversed(graph.operations[: end.index]):
        made = [value for value in operation.outputs if value is not None]
        readers = [reader.index for value in made for reader in consumers.get(value, [])]
        if readers and inside.issuperset(readers) and not kept.intersection(made):
            inside.add(operation.index)
    return frozenset(inside)


def _tensors_of(graph: Graph, alone: frozenset[int]) -> frozenset[str]:
    inside: set[int] = set()
    outside: set[int] = set()
    for operation in graph.operations:
        (inside if operation.index in alone else outside).update(operation.reads)
    return frozenset(graph.parameters[value] for value in inside - outside if value in graph.parameters)


@dataclass(frozen=True)
class WholeBlock:
    """A module that is act(x + branch(x)) and nothing else.

    Attributes:
        module: its dotted path.
        activation: "relu", "relu6" or "".
        changes_nothing: whether act(x) is x: there is no activation, or x has just passed the same one.
    """

    module: str
    activation: str
    changes_nothing: bool


def block_around(graph: Graph, end: BranchEnd) -> WholeBlock | None:
    """The block that is nothing without this branch; None where there is more in it than the addition of its input and an
    activation."""
    producers, consumers = graph.producers(), graph.consumers()
    others = [value for value in end.addition.reads if value != end.value]
    total = end.addition.outputs[0]
    if len(others) != 1 or total is None or end.addition.argument("alpha", 1) != 1:
        return None
    stream = others[0]
    if graph.values[stream].shape != graph.values[end.value].shape:
        return None
    calls = {path: [call for call in graph.calls if call.path == path] for path in {c.path for c in graph.calls}}
    readers = consumers.get(total, [])
    after = readers[0] if len(readers) == 1 and rectifier(readers[0]) else None
    for last, activation in ((after, rectifier(after) if after is not None else ""), (end.addition, "")):
        if last is None:
            continue
        inside = end.alone | {end.addition.index, last.index}
        for call in graph.calls:
            if (
                call.path
                and len(calls[call.path]) == 1
                and call.inputs == (stream,)
                and call.outputs == (last.outputs[0],)
                and call.last > call.first
                and inside.issuperset(range(call.first, call.last))
            ):
                before = producers.get(stream)
                same = not activation or (before is not None and rectifier(before) == activation)
                return WholeBlock(call.path, activation, same)
    return None


def stand_ins(model: nn.Module, graph: Graph, end: BranchEnd) -> tuple[str, ...] | str:
    """The modules inside a branch that need only keep its positions once it has no live end; or why that cannot be done."""
    paths: dict[str, None] = {}
    for operation in graph.operations:
        if operation.index in end.alone and operation.module != end.module:
            paths[operation.module] = None
    found: list[str] = []
    for path in paths:
        module = model.get_submodule(path)
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        runs = [operation.index for operation in graph.operations if operation.module == path]
        if not own:
            continue
        if not end.alone.issuperset(runs) or sum(call.path == path for call in graph.calls) != 1:
            return f"{path} is used elsewhere, too"
        if not isinstance(module, _BatchNorm) and not _keeps_positions(module):
            return f"{path} is a {type(module).__name__} that no stand-in is known for"
        found.append(path)
    return tuple(found)


def _keeps_positions(convolution: nn.Module) -> bool:
    """Whether it is a convolution that gives one position for every ``stride``-th of its input."""
    if not isinstance(convolution, _ConvNd) or isinstance(convolution, _ConvTransposeNd):
        return False
    if isinstance(convolution.padding, str):
        return convolution.padding == "same"
    sizes = zip(convolution.kernel_size, convolution.padding, convolution.dilation, strict=True)
    return all(2 * padding == dilation * (kernel - 1) for kernel, padding, dilation in sizes)
