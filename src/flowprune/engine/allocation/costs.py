"""Exact counts of a small model before it exists, as a function of how many channels each class of groups loses."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.flop_counter import flop_registry

from flowprune.engine.coupling import Coupling
from flowprune.engine.coupling.labels import Array
from flowprune.engine.tracing import Graph, Operation, Reference


class CountModel:
    """A sum of products of dimension sizes, each size shrinking linearly with what the classes lose.

    Args:
        coupling: the groups.
        terms: (constant, the labels of each dimension whose size is a factor).
    """

    def __init__(self, coupling: Coupling, terms: Sequence[tuple[int, Sequence[Array]]]) -> None:
        self._coupling = coupling
        dimensions: dict[tuple[int, int, int], int] = {}
        arrays: list[Array] = []
        factors: list[list[int]] = []
        for _, labels in terms:
            row: list[int] = []
            for array in labels:
                key = (int(array[0]), int(array[-1]), len(array))
                if key not in dimensions or not np.array_equal(arrays[dimensions[key]], array):
                    dimensions[key] = len(arrays)
                    arrays.append(array)
                row.append(dimensions[key])
            factors.append(row)
        self._arrays = arrays
        self._sizes = np.array([*(len(array) for array in arrays), 1], dtype=np.int64)
        width = max((len(row) for row in factors), default=0)
        one = len(arrays)  # a dimension of size 1 pads short rows
        self._factors = np.array([row + [one] * (width - len(row)) for row in factors], dtype=np.int64).reshape(
            len(factors), width
        )
        self._constants = np.array([constant for constant, _ in terms], dtype=np.int64)
        self._losses = self._losses_per_step()

    def _losses_per_step(self) -> Array:
        """[dimensions, classes]: by how much each dimension shrinks when a class takes one step."""
        coupling = self._coupling
        class_of = np.full(len(coupling.roots), -1, dtype=np.int64)
        stride_of = np.zeros(len(coupling.roots), dtype=np.int64)
        for number, groups in enumerate(coupling.classes):
            for group in groups:
                first = coupling.channels[group][0]  # one channel of each group stands for all: they are alike
                class_of[first], stride_of[first] = number, coupling.strides[group]
        losses = np.zeros((len(self._sizes), len(coupling.classes)), dtype=np.int64)
        for dimension, array in enumerate(self._arrays):
            roots = coupling.roots[array]
            classes = class_of[roots]
            np.add.at(losses[dimension], classes[classes >= 0], stride_of[roots[classes >= 0]])
        return losses

    def count(self, lost: Array) -> int:
        """The exact count after each class lost ``lost`` channels of each of its groups."""
        kept = self._sizes - self._losses @ lost
        return int((self._constants * kept[self._factors].prod(axis=1)).sum())

    def count_removed(self, removed: NDArray[np.bool_]) -> int:
        """The exact count after removing components: ``removed[label]`` for the smallest label of each."""
        kept = np.array(
            [*(int((~removed[self._coupling.roots[array]]).sum()) for array in self._arrays), 1], dtype=np.int64
        )
        return int((self._constants * kept[self._factors].prod(axis=1)).sum())


def macs_model(coupling: Coupling, graph: Graph) -> CountModel:
    """Multiply-accumulates of the traced batch, counted as ``torch.utils.flop_counter`` does, halved."""
    ruled = {cost.operation for cost in coupling.notes.costs}
    terms: list[tuple[int, Sequence[Array]]] = [(cost.constant, cost.factors) for cost in coupling.notes.costs]
    other = sum(_flops(operation, graph) for operation in graph.operations if operation.index not in ruled)
    return CountModel(coupling, [*terms, (other // 2, ())])


def _flops(operation: Operation, graph: Graph) -> int:
    """FLOPs of an operator that no rule counts (its operands are not pruned), from torch's own registry."""
    formula = flop_registry.get(operation.function.overloadpacket)
    if formula is None or operation.outputs[0] is None:
        return 0

    def shapes(argument: object) -> object:
        return graph.values[argument.value].shape if isinstance(argument, Reference) else argument

    arguments = [shapes(argument) for argument in operation.arguments]
    keywords = {name: shapes(argument) for name, argument in operation.keywords.items()}
    formula = getattr(formula, "__wrapped__", formula)
    return int(formula(*arguments, **keywords, out_shape=graph.values[operation.outputs[0]].shape))


def params_model(coupling: Coupling, graph: Graph, parameters: Collection[str]) -> CountModel:
    """Parameters (not buffers) of the whole model; ``parameters`` are their names, each tensor once."""
    terms: list[tuple[int, Sequence[Array]]] = []
    for value, name in graph.parameters.items():
        if name not in parameters:
            continue
        constant, labels = 1, []
        for dimension, size in enumerate(graph.values[value].shape):
            slot = coupling.notes.slot_of.get((name, dimension))
            if slot is None:
                constant *= size
            else:
                labels.append(slot.labels)
        terms.append((constant, labels))
    return CountModel(coupling, terms)
