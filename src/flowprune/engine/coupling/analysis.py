"""One pass under analysis: every parameter index has a label, labels flow, and what the rules say is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from flowprune.engine.coupling.connected_components import components
from flowprune.engine.coupling.labels import Array, Block, block_at
from flowprune.engine.coupling.propagation import Propagation, arange, place_of
from flowprune.engine.tracing import Graph, Operation
from flowprune.engine.tracing.integers import (
    Attribute,
    Expression,
    attributes_in,
    dimensions_in,
    evaluate,
    in_words,
    is_derived_from_sizes,
    sizes_in,
    solved_for_first,
)


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter or buffer, whose indices carry the labels ``first .. first + size - 1``."""

    name: str
    dimension: int
    first: int
    size: int

    @property
    def labels(self) -> Array:
        """The labels of its indices, in order."""
        return arange(self.first, self.size)


@dataclass(frozen=True)
class Demand:
    """An integer attribute that must equal ``times`` the number of ``labels`` that stay."""

    attribute: Attribute
    labels: Array
    times: Fraction = Fraction(1)


@dataclass(frozen=True)
class Extent:
    """A size the code writes down: that of a block along one axis. ``attribute`` is where it can be mended, None for a number or
    for an ``expression`` of several."""

    block: Block
    axis: int
    attribute: Attribute | None
    place: str
    expression: Expression


@dataclass(frozen=True)
class Tie:
    """Channels that must lose the same share as other ones: the code computes the number of ``right`` from that of ``left``."""

    left: Array
    right: Array
    place: str


@dataclass(frozen=True)
class Freeze:
    """Channels that must stay, and why."""

    labels: Array
    reason: str


@dataclass(frozen=True)
class Cost:
    """``constant`` times the product of the kept sizes of ``factors``, in multiply-accumulates of the traced batch."""

    operation: int
    constant: int
    factors: tuple[Array, ...]


@dataclass
class Notes:
    """Everything the rules said over all traced passes of one model, in one label space."""

    slots: list[Slot] = field(default_factory=list)
    slot_of: dict[tuple[str, int], Slot] = field(default_factory=dict)
    labels: int = 0
    heads: str = "whole"
    places: frozenset[str] = frozenset()
    left: list[Array] = field(default_factory=list)
    right: list[Array] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    balances: list[Array] = field(default_factory=list)
    fixed: dict[tuple[bool, int], Array] = field(default_factory=dict)
    fixed_at: dict[tuple[bool, int], str] = field(default_factory=dict)
    rows: list[tuple[Array, Array]] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    numbers: dict[Attribute, int] = field(default_factory=dict)
    held: dict[Attribute, str] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    fresh: dict[tuple[bool, int, int], Array] = field(default_factory=dict)

    def allocate(self, size: int) -> int:
        """Reserve ``size`` new labels; returns the first."""
        first, self.labels = self.labels, self.labels + size
        return first

    def bound_rows(self, roots: Array) -> list[Freeze]:
        """What must stay because it is a whole row, and the operator counts its rows itself."""
        found: list[Freeze] = []
        for where, rows in self.fixed.items():
            members = roots[rows]
            whole = (members == members[:, :1]).all(axis=1)
            if whole.any():
                reason = f"a group that could only leave as a whole ({self.fixed_at[where]})"
                found.append(Freeze(rows[whole].reshape(-1), reason))
        return found

    def roots(self) -> Array:
        """The component of every label.

        ``rows`` holds pairs ([rows, n], [n] or [1, n]) that are joined entry by entry unless each row leaves as a whole, which only
        shows in the end; then the second stays if it is not one of the rows.
        """
        roots = components(self.labels, *_concatenated(self.left, self.right))
        if self.rows:
            for rows, other in self.rows:
                if not (roots[rows] == roots[rows[:, :1]]).all():
                    self.left.append(np.broadcast_to(other, rows.shape).reshape(-1))
                    self.right.append(rows.reshape(-1))
                elif other.ndim == 1:
                    self.freezes.append(Freeze(other, "meets the width of heads, which leave as a whole"))
            self.rows = []
            roots = components(self.labels, *_concatenated(self.left, self.right))
        return roots


def _concatenated(*parts: list[Array]) -> tuple[Array, ...]:
    return tuple(np.concatenate(part) if part else np.empty(0, dtype=np.int64) for part in parts)


class Analysis(Propagation):
    """The dense model's propagation: writes down what the rules say."""

    def __init__(self, graph: Graph, notes: Notes, model: nn.Module) -> None:
        super().__init__(graph, notes.heads, notes.places)
        self.notes = notes
        self._model = model
        self._fresh = 0
        for value, name in graph.parameters.items():
            shape = graph.values[value].shape
            blocks = [Block((d,), self._slot(name, d, size).labels) for d, size in enumerate(shape) if size > 1]
            self.layouts[value] = tuple(blocks)

    def _slot(self, name: str, dimension: int, size: int) -> Slot:
        slot = self.notes.slot_of.get((name, dimension))
        if slot is None:
            slot = Slot(name, dimension, self.notes.allocate(size), size)
            self.notes.slot_of[name, dimension] = slot
            self.notes.slots.append(slot)
        return slot

    def join(self, left: Array, right: Array) -> None:
        """Note that the labels are one channel, entry by entry."""
        if left.shape != right.shape:
            left, right = np.broadcast_arrays(left, right)
        self.notes.left.append(left.reshape(-1))
        self.notes.right.append(right.reshape(-1))

    def freeze(self, labels: Array, reason: str) -> None:
        """Note that the channels must stay, and where the reason is: at the operator that is asked for its rule."""
        if self.operation is not None:
            at = self.operation.module or "the model itself"
            reason += f" (in {at})" if self.operation.name in reason else f" ({place_of(self.operation)})"
        self.notes.freezes.append(Freeze(labels.reshape(-1), reason))

    def balance(self, rows: Array, fixed: bool = False) -> None:
        """Note that every row must keep the same number."""
        self.notes.balances.append(rows)
        if fixed:
            assert self.operation is not None
            self.notes.fixed[self.graph.training, self.operation.index] = rows
            self.notes.fixed_at[self.graph.training, self.operation.index] = place_of(self.operation)

    def share(self, parts: Sequence[Array]) -> None:
        """Note that the parts' sizes follow from one another."""
        assert self.operation is not None
        for part in parts[1:]:
            self.notes.ties.append(Tie(parts[0], part, place_of(self.operation)))

    def interleave(self, rows: Array) -> None:
        """Note that the rows' entries alternate from here on."""
        self.notes.rows.append((rows, rows[:1]))

    def align(self, rows: Array, vector: Array) -> None:
        """Note that the vector goes along every row."""
        self.notes.rows.append((rows, vector))

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
            self.notes.demands.append(Demand(solved[0], labels, solved[1]))
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
        if attribute is None and sizes_in(expression):
            return  # computed from a size and an attribute: the attribute is known from elsewhere, or the certificate refuses
        if attribute is None and block.labels.ndim == 1 and not attributes_in(expression):
            self._stays(block.labels, "reshaped to", evaluate(expression, self._number), expression)
        else:
            self.notes.extents.append(Extent(block, axis, attribute, place, expression))
            self.notes.numbers |= {found: self._number(found) for found in attributes_in(expression)}

    def _number(self, attribute: Attribute) -> int:
        """What an attribute is in the dense model."""
        held = getattr(self._model.get_submodule(attribute.module), attribute.name)
        return int(held if attribute.position is None else held[attribute.position])

    def _tie(self, labels: Array, expression: Expression, operation: Operation) -> None:
        """Where the integer is a product or ratio of the sizes of other channels, those and ``labels`` lose the same share."""
        for value, dimension in dimensions_in(expression):
            source = block_at(self.layouts.get(value, ()), dimension)
            if source is not None and not np.array_equal(source.labels.reshape(-1), labels.reshape(-1)):
                self.notes.ties.append(Tie(source.labels.reshape(-1), labels.reshape(-1), place_of(operation)))

    def _stays(self, labels: Array, what: str, number: int, expression: Expression) -> None:
        self.freeze(labels, f"{what} {in_words(number, expression)}")

    def _is_standard(self, operation: Operation) -> bool:
        return isinstance(self._model.get_submodule(operation.module), (_ConvNd, nn.LayerNorm))

    def fresh(self, count: int) -> Array:
        """New labels, remembered by operation so that the certificate finds them again."""
        assert self.operation is not None
        labels = arange(self.notes.allocate(count), count)
        self.notes.fresh[self.graph.training, self.operation.index, self._fresh] = labels
        self._fresh += 1
        return labels

    def cost(self, constant: int, factors: Sequence[Array]) -> None:
        """Note the multiply-accumulates (of the evaluation pass only)."""
        assert self.operation is not None
        if not self.graph.training:
            self.notes.costs.append(Cost(self.operation.index, constant, tuple(factors)))


def _given(operation: Operation, argument: str, position: int) -> int:
    """The integer that an operator was called with."""
    given = operation.argument(argument)
    return int(given[position] if isinstance(given, (tuple, list)) else given)
