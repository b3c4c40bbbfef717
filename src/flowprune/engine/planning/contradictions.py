"""One integer of the code that counts several channels, of which different numbers would stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowprune.engine.coupling.analysis import Freeze, Notes, Tie
from flowprune.engine.coupling.labels import Array
from flowprune.engine.tracing.integers import Attribute


@dataclass(frozen=True)
class Contradiction:
    """An attribute that would have to take several values at once.

    Attributes:
        attribute: whose integer it is.
        uses: the labels that it counts, place by place.
        reason: in words.
    """

    attribute: Attribute
    uses: tuple[Array, ...]
    reason: str

    def freezes(self) -> list[Freeze]:
        """Everything stays that it counts."""
        return [Freeze(labels, self.reason) for labels in self.uses]


def level(contradiction: Contradiction, notes: Notes) -> None:
    """Ask that what the attribute counts shrinks in step: equally many leave where it counts equally many, else the same share."""
    first, *others = contradiction.uses
    place = str(contradiction.attribute)
    for labels in others:
        if len(labels) == len(first):
            notes.balances.append(np.stack([first, labels]))
        else:
            notes.ties.append(Tie(first, labels, place))


def settle(conflicts: Sequence[Freeze | Contradiction], notes: Notes, levelled: set[Attribute]) -> list[Freeze]:
    """What must be frozen; what can be met by shrinking in step is asked of the groups first, once an attribute."""
    freezes: list[Freeze] = []
    for conflict in conflicts:
        if isinstance(conflict, Freeze):
            freezes.append(conflict)
        elif conflict.attribute in levelled:
            freezes += conflict.freezes()
        else:
            levelled.add(conflict.attribute)
            level(conflict, notes)
    return freezes
