"""The points of a feature flow: which tensors of a pass they are, and at which module each can be taken down.

"blocks": the tensor that enters the first residual block, every block's output after the addition and the activation, and every
convolution unit of the plain parts behind it; in a network without residual additions every convolution unit.
"layers": every convolution unit; the last one of a residual block ends in the block's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from torch import nn

from flowprune.engine.tracing import Graph, ModuleCall, Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_convolution
from flowprune.errors import ModelError, UnknownNameError
from flowprune.methods.regularizers.feature_flow.points.residuals import (
    ancestry,
    convolutions,
    find_residuals,
    unit_end,
)
from flowprune.methods.regularizers.feature_flow.points.views import views_of


@dataclass(frozen=True)
class Point:
    """One point of the flow.

    Attributes:
        name: the block's module, the unit's convolution, or the name the user gave; "#2" marks a module's second call.
        kind: what the tensor is.
        module: dotted path of the module at which it is taken down.
        side: whether it is that module's input or output.
        occurrence: which call of that module within one forward, counted from 0.
        position: which of the tensors that go in or come out.
        copied: whether a later in-place operation overwrites the tensor, so that a copy must be kept.
        value: its number in the trace; None where there is no trace.
        flow: which trajectory it belongs to, counted from 0; a branching network has several.
    """

    name: str
    kind: Literal["stem", "block", "convolution", "named"]
    module: str
    side: Literal["input", "output"]
    occurrence: int
    position: int
    copied: bool
    value: int | None
    flow: int = 0


_POOLINGS = ("aten.mean", "aten._adaptive_avg_pool2d", "aten.adaptive_avg_pool2d", "aten.avg_pool2d")


@dataclass(frozen=True)
class _Wanted:
    value: int
    name: str
    kind: Literal["stem", "block", "convolution", "named"]
    inside: int  # an operation the module should contain, so that a block is named by its block


def find_points(graph: Graph, kind: Literal["blocks", "layers"]) -> tuple[list[Point], dict[str, str]]:
    """The points of a traced network in order, and those no module takes in or returns (name -> reason).

    Raises:
        ModelError: if the network has no convolution and no residual block.
    """
    wanted = _block_values(graph) if kind == "blocks" else _units(graph, ancestry(graph), through_addition=True)
    if not wanted:
        raise ModelError(
            "the feature flow found no convolution and no residual block; name its points: FeatureFlow(model, points=[...])"
        )
    overwritten = _overwritten(graph)
    points: list[Point] = []
    left_out: dict[str, str] = {}
    names: dict[str, int] = {}
    for want in sorted(wanted, key=lambda want: want.value):
        names[want.name] = names.get(want.name, 0) + 1
        name = want.name if names[want.name] == 1 else f"{want.name}#{names[want.name]}"
        point = _placed(graph, want, name, overwritten)
        if point is None:
            left_out[name] = "no module takes this tensor in or returns it"
        else:
            points.append(point)
    return points, left_out


def _placed(graph: Graph, want: _Wanted, name: str, overwritten: set[int]) -> Point | None:
    """The point at the nearest shape of the tensor that some module takes in or returns."""
    shapes = [want.value, *views_of(graph, want.value)]
    for value in shapes:
        place = _place(graph, replace(want, value=value))
        if place is not None:
            module, side, occurrence, position = place
            copied = not overwritten.isdisjoint(shapes)  # they share their memory
            return Point(name, want.kind, module, side, occurrence, position, copied, value)
    return None


def named_points(model: nn.Module, names: Sequence[str], graph: Graph | None) -> list[Point]:
    """The outputs of the named modules, in the order in which they run (in the order given, where there is no trace).

    Raises:
        UnknownNameError: for a name the model has no module of.
        ModelError: for a module that does not run, or returns no tensor.
    """
    check_names(model, names)
    if graph is None:
        return [Point(name, "named", name, "output", 0, 0, False, None) for name in names]
    overwritten = _overwritten(graph)
    points: list[Point] = []
    counts = dict.fromkeys(names, 0)
    for call in graph.calls:
        if call.path not in counts:
            continue
        counts[call.path] += 1
        if not call.outputs:
            raise ModelError(f"the module {call.path!r} returns no tensor and cannot be a point of the feature flow")
        value = call.outputs[0]
        name = call.path if counts[call.path] == 1 else f"{call.path}#{counts[call.path]}"
        points.append(Point(name, "named", call.path, "output", counts[call.path] - 1, 0, value in overwritten, value))
    silent = [name for name, count in counts.items() if not count]
    if silent:
        raise ModelError(
            f"the module {silent[0]!r} did not run in the forward; it cannot be a point of the feature flow"
        )
    return points


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Raise UnknownNameError for the first name that is no module of ``model``, ModelError for a name given twice."""
    known = dict(model.named_modules())
    for position, name in enumerate(names):
        if name not in known or not name:
            raise UnknownNameError("module", name, [path for path in known if path])
        if name in names[:position]:
            raise ModelError(f"points= names the module {name!r} twice; once is enough")


def _block_values(graph: Graph) -> list[_Wanted]:
    ancestors = ancestry(graph)
    residuals = find_residuals(graph, ancestors)
    units = _units(graph, ancestors, through_addition=False)
    if not residuals:
        return units
    found: dict[int, _Wanted] = {}
    producers = graph.producers()
    interior = 0
    for residual in residuals:
        interior |= residual.interior
    first_fork = min(residual.fork for residual in residuals)
    for residual in residuals:
        module = residual.addition.module or f"addition {residual.addition.index}"
        found[residual.end] = _Wanted(residual.end, module, "block", residual.addition.index)
    for unit in units:
        if unit.value > first_fork and not interior >> unit.value & 1:
            found.setdefault(unit.value, unit)
    # What enters a block is a point of its own only if something was learned since the point before it.
    learned = convolutions(graph, ancestors)
    for residual in residuals:
        before = [value for value in found if ancestors[residual.fork] >> value & 1]
        since = ancestors[residual.fork] & ~(ancestors[max(before)] if before else 0)
        source = [operation for operation in learned if since >> (operation.outputs[0] or 0) & 1]
        producer = producers.get(residual.fork)
        if (source or not before) and producer is not None:
            made_by = source[-1] if source else producer
            name = made_by.module or f"operation {made_by.index}"
            found.setdefault(residual.fork, _Wanted(residual.fork, name, "stem", producer.index))
    return list(found.values())


def _classifies(graph: Graph, unit: _Wanted) -> bool:
    """Whether it is the convolution after the global pooling that stands in for a linear classifier."""
    producers = graph.producers()
    value: int | None = unit.value
    if prod(graph.values[unit.value].shape[2:]) > 1 or unit.value not in producers:
        return False
    while value in producers:
        operation = producers[value]
        if operation.name in _POOLINGS:
            return prod(graph.values[operation.reads[0]].shape[2:]) > 1
        if value != unit.value and is_convolution(operation):
            return False
        value = next(iter(operation.reads), None)
    return False


def _units(graph: Graph, ancestors: dict[int, int], *, through_addition: bool) -> list[_Wanted]:
    consumers = graph.consumers()
    producers = graph.producers()
    found: dict[int, _Wanted] = {}
    for convolution in convolutions(graph, ancestors):
        end = unit_end(convolution, consumers, through_addition=through_addition)
        if end is not None:
            name = convolution.module or f"convolution {convolution.index}"
            found.setdefault(end, _Wanted(end, name, "convolution", producers[end].index))
    return _without_gates(graph, list(found.values()))


def _without_gates(graph: Graph, units: list[_Wanted]) -> list[_Wanted]:
    """Without the convolutions on pooled 1x1 maps that only weigh the channels of larger maps behind them."""
    kept: list[_Wanted] = []
    largest = 0
    units = [unit for unit in units if not _classifies(graph, unit)]
    for unit in sorted(units, key=lambda unit: -unit.value):
        positions = prod(graph.values[unit.value].shape[2:])
        if positions > 1 or largest <= 1:
            kept.append(unit)
        largest = max(largest, positions)
    return kept[::-1]


def _overwritten(graph: Graph) -> set[int]:
    """Values whose tensor a later operation writes to."""
    found = set()
    for operation in graph.operations:
        for argument, given in zip(operation.function._schema.arguments, operation.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, Reference):
                found.add(given.value)
    return found


def _place(graph: Graph, want: _Wanted) -> tuple[str, Literal["input", "output"], int, int] | None:
    """Where the value can be taken down: module, side, which call, which tensor."""
    occurrences: dict[str, int] = {}
    returning: list[tuple[ModuleCall, int]] = []
    taking: list[tuple[ModuleCall, int]] = []
    producer = graph.producers().get(want.value)
    for call in graph.calls:
        occurrence = occurrences.get(call.path, 0)
        occurrences[call.path] = occurrence + 1
        if call.path == "":
            continue
        if want.value in call.outputs and _contains(call, producer):
            returning.append((call, occurrence))
        if want.value in call.inputs:
            taking.append((call, occurrence))
    if returning:
        around = [pair for pair in returning if pair[0].first <= want.inside < pair[0].last]
        call, occurrence = min(around or returning, key=lambda pair: pair[0].last - pair[0].first)
        return call.path, "output", occurrence, call.outputs.index(want.value)
    if taking:
        call, occurrence = min(taking, key=lambda pair: (pair[0].first, -pair[0].last))
        return call.path, "input", occurrence, call.inputs.index(want.value)
    return None


def _contains(call: ModuleCall, operation: Operation | None) -> bool:
    # A module that only hands the tensor on (an Identity, dropout in evaluation mode) may change it in training.
    return operation is not None and call.first <= operation.index < call.last
