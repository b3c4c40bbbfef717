"""What a cut does to every layer, for people."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.allocation import LayerChange
from flowprune.engine.coupling import Coupling
from flowprune.engine.coupling.roles import Roles, layer_of, roles_in
from flowprune.engine.planning.coupled_model import CoupledModel


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
    roles = roles_in(graph)
    shapes = {name: graph.values[value].shape for value, name in graph.parameters.items() if name in coupled.parameters}
    for layer, (before, after) in macs.items():
        own = {name: shape for name, shape in shapes.items() if _owner(name, macs) == layer}
        made = _made_by(own, roles)
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
