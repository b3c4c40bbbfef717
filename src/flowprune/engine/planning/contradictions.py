"""One integer of the code that counts several channels, of which different numbers would stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowprune.engine.coupling.labels import Array
from flowprune.engine.coupling.notes import Freeze, Notes
from flowprune.engine.tracing.expressions import Attribute


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


def settle(conflicts: Sequence[Freeze | Contradiction], notes: Notes, levelled: set[Attribute]) -> Notes:
    """The notes, and what must be frozen; what can be met by shrinking in step is asked of the groups first, once an attribute."""
    freezes: list[Freeze] = []
    for conflict in conflicts:
        if isinstance(conflict, Freeze):
            freezes.append(conflict)
        elif conflict.attribute in levelled:
            freezes += conflict.freezes()
        else:
            levelled.add(conflict.attribute)
            notes = notes.in_step(conflict.uses, str(conflict.attribute))
    return notes.frozen(freezes)
