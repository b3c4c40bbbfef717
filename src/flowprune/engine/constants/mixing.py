"""Where channels are mixed with others by something else than a layer's weights, so that one that leaves is missed.

A sum over channels, a product of activations, the statistics of a layer norm: what such an operator returns depends on how many
channels there are and on every one of them. No bias can take up what a constant channel adds there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.constants.knowledge import Knowledge, is_zero
from flowprune.engine.coupling import Analysis
from flowprune.engine.coupling.labels import Array, Layout
from flowprune.engine.coupling.rules import joining, pooling, reduction, rule_of, shape
from flowprune.engine.coupling.rules.normalization import group_norm, layer_norm
from flowprune.engine.coupling.rules.pointwise import pointwise
from flowprune.engine.tracing import Operation
from flowprune.engine.tracing.operator_kinds import is_batch_norm, is_layer

_ADDING_UP = frozenset({"aten.bmm", "aten.sum"})
"""Operators that a channel of exact zeros adds nothing to."""
_APART = frozenset(module.__name__ for module in (joining, pooling, reduction, shape))
"""Where the rules stand of operators that never put one channel's values into another channel that stays."""


@dataclass(frozen=True)
class Mixture:
    """What one operation mixes.

    Attributes:
        entering: labels of the channels it reads, each once.
        staying: labels of those that are still apart behind it.
        silent: labels of those that add nothing, because they are exactly zero.
        spread: of its inputs, the labels block by block.
        apart: whether its kind leaves every channel's values to the channel itself.
    """

    entering: Array
    staying: Array
    silent: Array
    spread: tuple[tuple[Array, ...], ...]
    apart: bool

    def mixed(self, roots: Array, removed: NDArray[np.bool_]) -> Array:
        """The components that leave, and are mixed with others here.

        Args:
            roots: [labels] the component of every label.
            removed: [labels] which components leave.
        """
        entering = roots[self.entering]
        entering = entering[removed[entering]]
        if not len(entering):
            return entering
        return np.setdiff1d(entering, roots[np.concatenate([self.staying, self.silent])])

    def touched(self, roots: Array, alive: NDArray[np.bool_]) -> Array:
        """Of the components that would leave although they vary: those that may have a part in others behind the operation.

        That one stays apart says nothing here. In ``x @ x.T @ x`` every channel comes out again, and with a part of all others.

        Args:
            roots: [labels] the component of every label.
            alive: [labels] which components would leave although they vary, because no layer reads them.
        """
        if not self.apart:
            found = [roots[self.entering]]
        else:  # a channel in two dimensions of a tensor meets all others there
            each = [[np.unique(roots[labels]) for labels in blocks] for blocks in self.spread]
            meeting = [np.unique(np.concatenate(blocks), return_counts=True) for blocks in each if len(blocks) > 1]
            found = [components[counts > 1] for components, counts in meeting]
        components: Array = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))
        touching: Array = components[alive[components]]
        return touching


def mixtures(evaluation: Analysis) -> dict[int, Mixture]:
    """Operation index -> what is mixed there: what is no longer apart behind the operator, and all that a layer or group norm
    normalises over.

    Args:
        evaluation: the evaluation pass with its labels.
    """
    found: dict[int, Mixture] = {}
    none = np.empty(0, dtype=np.int64)
    for operation in evaluation.graph.operations:
        kind = rule_of(operation)
        if is_layer(operation) or is_batch_norm(operation) or kind is pointwise:
            continue
        entering = _labels_of(evaluation, operation.reads)
        if len(entering):
            normalised = kind in (layer_norm, group_norm)
            leaving = [value for value in operation.outputs if value is not None]
            staying = none if normalised else _labels_of(evaluation, leaving)
            spread = tuple(
                tuple(block.labels.reshape(-1) for block in evaluation.layouts.get(value, ()))
                for value in operation.reads
            )
            apart = kind is not None and kind.__module__ in _APART
            found[operation.index] = Mixture(entering, staying, none, spread, apart)
    return found


def silent_labels(
    operation: Operation,
    evaluation: Analysis,
    known: Callable[[int], Knowledge | None],
    finite: frozenset[int],
) -> Array:
    """The labels of which an operation that adds up reads nothing but exact zeros, beside what is finite or zero itself.

    Args:
        operation: a mixing operation.
        evaluation: the evaluation pass with its labels.
        known: what is known of a value at this moment.
        finite: the values that are finite whatever the inputs are.
    """
    if operation.name not in _ADDING_UP:
        return np.empty(0, dtype=np.int64)
    inputs = operation.reads
    zeros = [_zero_labels(known(value), evaluation.layouts.get(value, ())) for value in inputs]
    silent = [np.empty(0, dtype=np.int64)]
    for place, labels in enumerate(zeros):
        others = inputs[:place] + inputs[place + 1 :]
        if all(other in finite or _is_whole(known(other)) for other in others):
            silent.append(labels)
    if len(zeros) == 2:
        silent.append(np.intersect1d(zeros[0], zeros[1]))
    return np.concatenate(silent)


def _zero_labels(knowledge: Knowledge | None, layout: Layout) -> Array:
    """The labels of which a tensor is known to be zero throughout."""
    if knowledge is None:
        return np.empty(0, dtype=np.int64)
    zero = np.asarray(is_zero(knowledge).cpu().numpy(), dtype=bool)
    found = [np.empty(0, dtype=np.int64)]
    for block in layout:
        others = tuple(d for d in range(zero.ndim) if d not in block.dimensions)
        found.append(block.labels[np.asarray(zero.all(axis=others))])
    return np.concatenate(found)


def _is_whole(knowledge: Knowledge | None) -> bool:
    return knowledge is not None and knowledge.is_whole()


def _labels_of(evaluation: Analysis, values: Sequence[int]) -> Array:
    blocks = [
        block.labels.reshape(-1) for value in dict.fromkeys(values) for block in evaluation.layouts.get(value, ())
    ]
    return np.unique(np.concatenate(blocks)) if blocks else np.empty(0, dtype=np.int64)
