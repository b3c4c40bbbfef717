"""Write a selection down as a plan: what leaves, the integers that follow, and what becomes of every layer, for people."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.allocation import AttributeChange, LayerChange, Plan
from flowprune.engine.coupling import Coupling
from flowprune.engine.coupling.labels import Array, Block, survivors
from flowprune.engine.coupling.notes import Extent, Freeze
from flowprune.engine.coupling.roles import Roles, layer_of
from flowprune.engine.planning.contradictions import Contradiction
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.exemptions import IGNORED
from flowprune.engine.planning.request import Request, name_of
from flowprune.engine.planning.selection import Selection
from flowprune.engine.tracing.expressions import Attribute, evaluate, in_words


def assemble(selection: Selection, coupled: CoupledModel, request: Request) -> Plan | list[Freeze | Contradiction]:
    """The plan; or what stands against it, where the code's integers cannot follow."""
    coupling, removed = coupled.coupling, selection.removed
    gone = removed[coupling.roots]
    slices: dict[str, dict[int, tuple[int, ...]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for slot in coupling.notes.slots:
        indices = np.flatnonzero(gone[slot.first : slot.first + slot.size])
        if len(indices):
            slices.setdefault(slot.name, {})[slot.dimension] = tuple(indices.tolist())
    for value, name in coupled.graph.parameters.items():
        if name in slices or name in selection.folding.shifts:
            shapes[name] = coupled.graph.values[value].shape
    attributes, conflicts = _attributes(coupled, selection.removed)
    if conflicts:
        return conflicts
    none, macs, params = np.zeros_like(removed), coupled.macs.count_removed, coupled.params.count_removed
    return Plan(
        asked=str(request.budget),
        scope=request.budget.scope,
        importance=name_of(request.importance, request.allocator),
        removed=slices,
        shapes=shapes,
        attributes=attributes,
        layers=_layer_changes(coupled, gone),
        macs=(macs(none) // coupled.batch, macs(removed) // coupled.batch),
        params=(params(none), params(removed)),
        frozen=coupling.frozen,
        folds=tuple(selection.folding.folds),
        kept_alive=selection.kept_alive,
        stays=selection.stays,
        round_to=request.width_multiple,
        rounded=selection.rounded,
        target=selection.fit.target,
        smallest_step=selection.fit.smallest_step,
        shifts=selection.folding.shifts,
    )


def _attributes(
    coupled: CoupledModel, removed: NDArray[np.bool_]
) -> tuple[tuple[AttributeChange, ...], list[Freeze | Contradiction]]:
    """The integer attributes that follow the cut; and what stands against it where the code's integers cannot follow."""
    coupling = coupled.coupling
    wanted: dict[Attribute, list[tuple[int, int, Array]]] = {}
    conflicts: list[Freeze | Contradiction] = []
    computed: list[tuple[Extent, int]] = []
    for demand in coupling.notes.demands:
        roots = coupling.roots[demand.labels]
        counts = (len(roots), int((~removed[roots]).sum()))
        uses = wanted.setdefault(demand.attribute, [])
        uses.append((int(demand.times * counts[0]), int(demand.times * counts[1]), demand.labels))
    for extent in coupling.notes.extents:
        block = extent.block
        before = block.labels.shape[extent.axis]
        kept = survivors(Block(block.dimensions, coupling.roots[block.labels], block.inner), removed)
        if kept is None:
            conflicts.append(
                Freeze(block.labels.reshape(-1), f"what stays of a reshaped block is not rectangular ({extent.place})")
            )
        elif kept.shape[extent.axis] == 1 < before:
            # a single row (one attention head) is laid out in memory like none at all: other operators would run
            reason = f"a reshaped block would be left with a single row ({extent.place})"
            conflicts.append(Freeze(block.labels.reshape(-1), reason))
        elif extent.attribute is not None:
            wanted.setdefault(extent.attribute, []).append((before, kept.shape[extent.axis], block.labels.reshape(-1)))
        else:
            computed.append((extent, kept.shape[extent.axis]))
    changes: list[AttributeChange] = []
    for attribute, uses in wanted.items():
        results = sorted({after for _, after, _ in uses})
        if len(results) > 1:
            reason = f"{attribute} would have to be {' and '.join(map(str, results))} at once"
            conflicts.append(Contradiction(attribute, tuple(labels for _, _, labels in uses), reason))
        elif results[0] != uses[0][0] and attribute.module in coupled.exempt.modules:
            reason = f"{attribute} counts them, and {attribute.module} is {IGNORED}"
            conflicts += [Freeze(labels, reason) for _, _, labels in uses]
        elif results[0] != uses[0][0] and attribute in coupling.notes.held:
            reason = f"{attribute} counts them, and {coupling.notes.held[attribute]}"
            conflicts += [Freeze(labels, reason) for _, _, labels in uses]
        elif results[0] != uses[0][0]:
            changes.append(
                AttributeChange(attribute.module, attribute.name, attribute.position, uses[0][0], results[0])
            )
    mended = {Attribute(change.module, change.name, change.position): change.after for change in changes}
    numbers = {**coupling.notes.numbers, **mended}
    for extent, after in computed:
        if evaluate(extent.expression, numbers.__getitem__) != after:
            dense = evaluate(extent.expression, coupling.notes.numbers.__getitem__)
            reason = f"reshaped to {in_words(dense, extent.expression)} ({extent.place})"
            conflicts.append(Freeze(extent.block.labels.reshape(-1), reason))
    return tuple(changes), conflicts


def _layer_changes(coupled: CoupledModel, gone: NDArray[np.bool_]) -> tuple[LayerChange, ...]:
    """Every convolution and linear layer before and after."""
    coupling, graph = coupled.coupling, coupled.graph
    operations = {operation.index: operation for operation in graph.operations}
    macs: dict[str, list[int]] = {}
    for cost in coupling.notes.costs:
        layer = layer_of(operations[cost.operation], graph)
        before = cost.constant * int(np.prod([len(f) for f in cost.factors], dtype=np.int64))
        after = cost.constant * int(np.prod([(~gone[f]).sum() for f in cost.factors], dtype=np.int64))
        entry = macs.setdefault(layer, [0, 0])
        entry[0] += before // coupled.batch
        entry[1] += after // coupled.batch
    changes: list[LayerChange] = []
    owned: dict[str, dict[str, tuple[int, ...]]] = {}
    for value, name in graph.parameters.items():
        if name in coupled.parameters:
            owned.setdefault(_owner(name, macs), {})[name] = graph.values[value].shape
    for layer, (before, after) in macs.items():
        own = owned.get(layer, {})
        made = _made_by(own, coupling.roles)
        channels = (0, 0) if made is None else _kept(coupling, gone, *made, own[made[0]])
        params = [0, 0]
        for name, shape in own.items():
            sizes = [_kept(coupling, gone, name, d, shape) for d in range(len(shape))]
            params[0] += int(np.prod([size[0] for size in sizes], dtype=np.int64))
            params[1] += int(np.prod([size[1] for size in sizes], dtype=np.int64))
        changes.append(LayerChange(layer, channels, (before, after), (params[0], params[1])))
    return tuple(changes)


def _owner(name: str, layers: Container[str]) -> str:
    """The layer a parameter belongs to; the model's own weights are layers by themselves."""
    return name if name in layers else name.rpartition(".")[0]


def _made_by(own: Mapping[str, Sequence[int]], roles: Roles) -> tuple[str, int] | None:
    """The weight of a layer and which of its dimensions are the filters.

    None where a module only multiplies tensors: a scale, a temperature or a table of positions beside that makes no channels.
    """
    matrices = [name for name, shape in own.items() if len(shape) > 1]
    made = [(name, d) for name in matrices for d in range(len(own[name])) if roles.get((name, d)) == "output"]
    made += [(name, 0) for name in matrices if name.endswith("weight")]
    return next(iter(made), None)


def _kept(
    coupling: Coupling, gone: NDArray[np.bool_], name: str, dimension: int, shape: Sequence[int]
) -> tuple[int, int]:
    """Size of a parameter's dimension before and after."""
    slot = coupling.notes.slot_of.get((name, dimension))
    if slot is None:
        return shape[dimension], shape[dimension]
    return slot.size, slot.size - int(gone[slot.first : slot.first + slot.size].sum())
