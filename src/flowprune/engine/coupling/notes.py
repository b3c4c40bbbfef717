"""What the rules said of a model: the notebook that the analysis writes, and the notes it leaves, which nobody changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from flowprune.engine.coupling.labels import Array, Block, components
from flowprune.engine.tracing.expressions import Attribute, Expression

Site = tuple[bool, int]
"""Whether it is the training pass, and the index of an operation in it."""


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter or buffer, whose indices carry ``labels``: ``first .. first + size - 1``."""

    name: str
    dimension: int
    first: int
    size: int
    labels: Array = field(compare=False, repr=False)


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


@dataclass(frozen=True)
class Notes:
    """Everything the rules said over all traced passes of one model, in one label space.

    Attributes:
        slots: the dimensions of all parameters and buffers; ``slot_of`` has them by name and dimension.
        labels: how many labels there are.
        roots: [labels]: the component of every label, its smallest label.
        heads, places: see ``Propagation``.
        freezes: what must stay; the first reason of a channel is the one to give.
        balances: [..., n] each: rows that must keep equally many.
        fixed: the balances of an operator's own rows, by where they are.
        ties: what must lose the same share.
        demands, extents: the integers of the code that count channels; ``numbers`` has what attributes are in the dense model.
        held: attributes that must not follow a cut, and why.
        costs: the multiply-accumulates of the evaluation pass.
        fresh: the channels that an operator makes, by where it is and which of its slots they are in.
    """

    slots: tuple[Slot, ...]
    slot_of: Mapping[tuple[str, int], Slot]
    labels: int
    roots: Array
    heads: str
    places: frozenset[str]
    freezes: tuple[Freeze, ...]
    balances: tuple[Array, ...]
    fixed: Mapping[Site, Array]
    ties: tuple[Tie, ...]
    demands: tuple[Demand, ...]
    extents: tuple[Extent, ...]
    numbers: Mapping[Attribute, int]
    held: Mapping[Attribute, str]
    costs: tuple[Cost, ...]
    fresh: Mapping[tuple[bool, int, int], Array]

    def frozen_first(self, freezes: Iterable[Freeze]) -> Notes:
        """These notes, and in front of all other reasons that more must stay."""
        return replace(self, freezes=(*freezes, *self.freezes))

    def frozen(self, freezes: Iterable[Freeze]) -> Notes:
        """These notes, and that more must stay."""
        return replace(self, freezes=(*self.freezes, *freezes))

    def in_step(self, counted: Sequence[Array], place: str) -> Notes:
        """These notes, and that channels shrink in step with the first of them: equally many leave where they are equally many,
        else the same share."""
        first, *others = counted
        balances = [np.stack([first, labels]) for labels in others if len(labels) == len(first)]
        ties = [Tie(first, labels, place) for labels in others if len(labels) != len(first)]
        return replace(self, balances=(*self.balances, *balances), ties=(*self.ties, *ties))


@dataclass
class Notebook:
    """What the rules say while labels flow: written by the analyses of all passes of a model, and by nobody else.

    Attributes:
        left, right: labels that are one channel, entry by entry.
        rows: pairs ([rows, n], [n] or [1, n]) that are joined entry by entry unless each row leaves as a whole, which only shows
            when all is said.
        fixed_at: where the operators of ``fixed`` are, in words.

    The others are as in ``Notes``.
    """

    heads: str = "whole"
    places: frozenset[str] = frozenset()
    slot_of: dict[tuple[str, int], Slot] = field(default_factory=dict)
    labels: int = 0
    left: list[Array] = field(default_factory=list)
    right: list[Array] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    balances: list[Array] = field(default_factory=list)
    fixed: dict[Site, Array] = field(default_factory=dict)
    fixed_at: dict[Site, str] = field(default_factory=dict)
    rows: list[tuple[Array, Array]] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    numbers: dict[Attribute, int] = field(default_factory=dict)
    held: dict[Attribute, str] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    fresh: dict[tuple[bool, int, int], Array] = field(default_factory=dict)

    def allocate(self, size: int) -> Array:
        """``size`` new labels, consecutive ones."""
        first, self.labels = self.labels, self.labels + size
        return np.arange(first, self.labels, dtype=np.int64)

    def slot(self, name: str, dimension: int, size: int) -> Slot:
        """The dimension of a parameter or buffer, with labels of its own."""
        found = self.slot_of.get((name, dimension))
        if found is None:
            first = self.labels
            found = self.slot_of[name, dimension] = Slot(name, dimension, first, size, self.allocate(size))
        return found

    def settled(self) -> Notes:
        """The notes, now that all is said: which rows leave as a whole, and so what is one channel and what must stay."""
        roots, meeting = self._components()
        return Notes(
            slots=tuple(self.slot_of.values()),
            slot_of=self.slot_of,
            labels=self.labels,
            roots=roots,
            heads=self.heads,
            places=self.places,
            freezes=(*self.freezes, *meeting, *self._bound_rows(roots)),
            balances=tuple(self.balances),
            fixed=self.fixed,
            ties=tuple(self.ties),
            demands=tuple(self.demands),
            extents=tuple(self.extents),
            numbers=self.numbers,
            held=self.held,
            costs=tuple(self.costs),
            fresh=self.fresh,
        )

    def _components(self) -> tuple[Array, list[Freeze]]:
        """The component of every label; and what must stay because it goes along rows that leave as a whole."""
        roots = components(self.labels, _concatenated(self.left), _concatenated(self.right))
        left, right, meeting = [*self.left], [*self.right], list[Freeze]()
        for rows, other in self.rows:
            if not (roots[rows] == roots[rows[:, :1]]).all():
                left.append(np.broadcast_to(other, rows.shape).reshape(-1))
                right.append(rows.reshape(-1))
            elif other.ndim == 1:
                meeting.append(Freeze(other, "meets the width of heads, which leave as a whole"))
        if len(left) > len(self.left):
            roots = components(self.labels, _concatenated(left), _concatenated(right))
        return roots, meeting

    def _bound_rows(self, roots: Array) -> list[Freeze]:
        """What must stay because it is a whole row, and the operator counts its rows itself."""
        found: list[Freeze] = []
        for where, rows in self.fixed.items():
            members = roots[rows]
            whole = (members == members[:, :1]).all(axis=1)
            if whole.any():
                reason = f"a group that could only leave as a whole ({self.fixed_at[where]})"
                found.append(Freeze(rows[whole].reshape(-1), reason))
        return found


def _concatenated(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
