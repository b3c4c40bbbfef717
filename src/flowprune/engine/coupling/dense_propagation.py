"""Labels on their way through the dense model: what the rules say is written down, and of which integers of the code they speak."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from flowprune.engine.coupling.labels import Array, Block, block_at
from flowprune.engine.coupling.notes import Cost, Demand, Extent, Freeze, Notebook, Tie
from flowprune.engine.coupling.propagation import Propagation, place_of
from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.expressions import (
    Attribute,
    Expression,
    attributes_in,
    dimensions_in,
    evaluate,
    in_words,
    is_derived_from_sizes,
    places_in,
    solved_for_first,
)


class Analysis(Propagation):
    """The dense model's propagation: writes down in a notebook what the rules say."""

    def __init__(self, graph: Graph, notebook: Notebook, model: nn.Module) -> None:
        super().__init__(graph, notebook.heads, notebook.places)
        self.notebook = notebook
        self._model = model
        for value, name in graph.parameters.items():
            shape = graph.values[value].shape
            blocks = [Block((d,), notebook.slot(name, d, size).labels) for d, size in enumerate(shape) if size > 1]
            self.layouts[value] = tuple(blocks)

    def join(self, left: Array, right: Array) -> None:
        """Note that the labels are one channel, entry by entry."""
        if left.shape != right.shape:
            left, right = np.broadcast_arrays(left, right)
        self.notebook.left.append(left.reshape(-1))
        self.notebook.right.append(right.reshape(-1))

    def freeze(self, labels: Array, reason: str) -> None:
        """Note that the channels must stay, and where the reason is: at the operator that is asked for its rule."""
        if self.operation is not None:
            at = self.operation.module or "the model itself"
            reason += f" (in {at})" if self.operation.name in reason else f" ({place_of(self.operation)})"
        self.notebook.freezes.append(Freeze(labels.reshape(-1), reason))

    def balance(self, rows: Array, fixed: bool = False) -> None:
        """Note that every row must keep the same number."""
        self.notebook.balances.append(rows)
        if fixed:
            assert self.operation is not None
            self.notebook.fixed[self.graph.training, self.operation.index] = rows
            self.notebook.fixed_at[self.graph.training, self.operation.index] = place_of(self.operation)

    def share(self, parts: Sequence[Array]) -> None:
        """Note that the parts' sizes follow from one another."""
        assert self.operation is not None
        for part in parts[1:]:
            self.notebook.ties.append(Tie(parts[0], part, place_of(self.operation)))

    def interleave(self, rows: Array) -> None:
        """Note that the rows' entries alternate from here on."""
        self.notebook.rows.append((rows, rows[:1]))

    def align(self, rows: Array, vector: Array) -> None:
        """Note that the vector goes along every row."""
        self.notebook.rows.append((rows, vector))

    def count(self, labels: Array, argument: str, position: int, reason: str) -> None:
        """Find the attribute behind the integer; freeze the labels where there is none that could be mended."""
        operation = self.operation
        assert operation is not None
        if argument in ("groups", "normalized_shape") and self._is_standard(operation):
            return  # surgery knows the attribute by the module's class
        origins = operation.integers.get(argument)
        expression = origins[position] if origins is not None and position < len(origins) else None
        if expression is None:
            self._stays(labels, reason, _given(operation, argument, position), ("number",))
        elif is_derived_from_sizes(expression):
            self._tie(labels, expression, operation)
        elif (solved := solved_for_first(expression, self._number)) is not None:
            self.notebook.demands.append(Demand(solved[0], labels, solved[1]))
        else:
            self._stays(labels, reason, _given(operation, argument, position), expression)

    def extent(self, block: Block, axis: int, expression: Expression) -> None:
        """Note the size, to be compared with what a cut leaves; a single dimension's number freezes it at once."""
        operation = self.operation
        assert operation is not None
        self._tie(block.labels, expression, operation)
        if is_derived_from_sizes(expression):
            return
        place = place_of(operation)
        attribute = attributes_in(expression)[0] if expression[0] == "attribute" else None
        if attribute is None and places_in(expression):
            return  # computed from a size and an attribute: the attribute is known from elsewhere, or the certificate refuses
        if attribute is None and block.labels.ndim == 1 and not attributes_in(expression):
            self._stays(block.labels, "reshaped to", evaluate(expression, self._number), expression)
        else:
            self.notebook.extents.append(Extent(block, axis, attribute, place, expression))
            self.notebook.numbers |= {found: self._number(found) for found in attributes_in(expression)}

    def _number(self, attribute: Attribute) -> int:
        """What an attribute is in the dense model."""
        return attribute.held_by(self._model)

    def _tie(self, labels: Array, expression: Expression, operation: Operation) -> None:
        """Where the integer is a product or ratio of the sizes of other channels, those and ``labels`` lose the same share."""
        for value, dimension in dimensions_in(expression):
            source = block_at(self.layouts.get(value, ()), dimension)
            if source is not None and not np.array_equal(source.labels.reshape(-1), labels.reshape(-1)):
                self.notebook.ties.append(Tie(source.labels.reshape(-1), labels.reshape(-1), place_of(operation)))

    def _stays(self, labels: Array, what: str, number: int, expression: Expression) -> None:
        self.freeze(labels, f"{what} {in_words(number, expression)}")

    def _is_standard(self, operation: Operation) -> bool:
        return isinstance(self._model.get_submodule(operation.module), (_ConvNd, nn.LayerNorm))

    def fresh(self, count: int, slot: int) -> Array:
        """New labels, remembered by operation so that the certificate finds them again."""
        assert self.operation is not None
        labels = self.notebook.allocate(count)
        self.notebook.fresh[self.graph.training, self.operation.index, slot] = labels
        return labels

    def demand(self, attribute: Attribute, labels: Array) -> None:
        """Note that an attribute is the number of the labels."""
        self.notebook.demands.append(Demand(attribute, labels))

    def hold(self, attribute: Attribute, reason: str) -> None:
        """Note that an attribute must not follow a cut; the first reason counts."""
        self.notebook.held.setdefault(attribute, reason)

    def cost(self, constant: int, factors: Sequence[Array]) -> None:
        """Note the multiply-accumulates (of the evaluation pass only)."""
        assert self.operation is not None
        if not self.graph.training:
            self.notebook.costs.append(Cost(self.operation.index, constant, tuple(factors)))


def _given(operation: Operation, argument: str, position: int) -> int:
    """The integer that an operator was called with."""
    given = operation.argument(argument)
    return int(given[position] if isinstance(given, (tuple, list)) else given)
