"""Write a selection down as a plan."""

from __future__ import annotations

import numpy as np

from flowprune.allocation import AttributeChange, Budget, Plan
from flowprune.coupling.analysis import Freeze
from flowprune.importance.protocol import Importance
from flowprune.planning.coupled_model import CoupledModel
from flowprune.planning.layers import layer_changes
from flowprune.planning.selection import Selection


def assemble(
    selection: Selection, coupled: CoupledModel, budget: Budget, importance: Importance | None
) -> Plan | list[Freeze]:
    """The plan; or what must be frozen, where one attribute would have to take two values."""
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
    attributes: dict[tuple[str, str, int | None], AttributeChange] = {}
    conflicts: list[Freeze] = []
    for demand in coupling.notes.demands:
        before, after = len(demand.labels), int((~gone[demand.labels]).sum())
        key = (demand.attribute.module, demand.attribute.name, demand.attribute.position)
        change = AttributeChange(*key, before, after)
        if attributes.setdefault(key, change).after != after:
            reason = f"{key[0]}.{key[1]} would have to be both {attributes[key].after} and {after}"
            conflicts += [
                Freeze(other.labels, reason) for other in coupling.notes.demands if other.attribute == demand.attribute
            ]
    if conflicts:
        return conflicts
    none = np.zeros_like(removed)
    return Plan(
        asked=str(budget),
        scope=budget.scope,
        importance=name_of(importance),
        removed=slices,
        shapes=shapes,
        attributes=tuple(change for change in attributes.values() if change.before != change.after),
        layers=layer_changes(coupled, gone),
        macs=(
            coupled.macs.count_removed(none) // coupled.batch,
            coupled.macs.count_removed(removed) // coupled.batch,
        ),
        params=(coupled.params.count_removed(none), coupled.params.count_removed(removed)),
        frozen=coupling.frozen,
        folds=tuple(selection.folding.folds),
        kept_alive=selection.kept_alive,
        shifts=selection.folding.shifts,
    )


def name_of(importance: Importance | None) -> str:
    """How a plan names the criterion it was made by."""
    return "filter_scale" if importance is None else type(importance).__name__
