"""What a cut does to every layer, for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowprune.allocation import LayerChange
from flowprune.coupling import Coupling
from flowprune.coupling.roles import layer_of
from flowprune.planning.coupled_model import CoupledModel


def layer_changes(coupled: CoupledModel, gone: NDArray[np.bool_]) -> tuple[LayerChange, ...]:
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
    shapes = {name: graph.values[value].shape for value, name in graph.parameters.items() if name in coupled.parameters}
    for layer, (before, after) in macs.items():
        own = {name: shape for name, shape in shapes.items() if name.rpartition(".")[0] == layer}
        weight = next((name for name in own if name.endswith("weight")), next(iter(own), layer))
        made = _made_dimension(coupling, weight)
        channels = _kept(coupling, gone, weight, made, shapes.get(weight, (0, 0)))
        params = [0, 0]
        for name, shape in own.items():
            sizes = [_kept(coupling, gone, name, d, shape) for d in range(len(shape))]
            params[0] += int(np.prod([size[0] for size in sizes], dtype=np.int64))
            params[1] += int(np.prod([size[1] for size in sizes], dtype=np.int64))
        changes.append(LayerChange(layer, channels, (before, after), (params[0], params[1])))
    return tuple(changes)


def _made_dimension(coupling: Coupling, weight: str) -> int:
    for group in coupling.groups:
        for member in group.members:
            if member.name == weight and member.role == "output":
                return member.dimension
    return 0


def _kept(
    coupling: Coupling, gone: NDArray[np.bool_], name: str, dimension: int, shape: Sequence[int]
) -> tuple[int, int]:
    """Size of a parameter's dimension before and after."""
    slot = coupling.notes.slot_of.get((name, dimension))
    if slot is None:
        return shape[dimension], shape[dimension]
    return slot.size, slot.size - int(gone[slot.first : slot.first + slot.size].sum())
