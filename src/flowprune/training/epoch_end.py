"""What a penalty is told at the end of an epoch, and what of it is written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Steered(Protocol):
    """A penalty whose strength changes from epoch to epoch, such as ``flowprune.FeatureFlow``."""

    @property
    def strength(self) -> float:
        """What its coefficients are multiplied with in the present epoch."""
        ...

    def epoch_end(self, macs: float | None = None) -> float | None:
        """Count the epoch and adapt; returns the share that is steered, if there is one: see ``FeatureFlow.epoch_end``."""
        ...


def end_epoch(regularizer: object, macs_left: Callable[[], float] | None) -> dict[str, Any]:
    """Tell the penalty, if it wants to know, that an epoch has ended.

    Args:
        regularizer: any penalty, or None.
        macs_left: measures the share of the MACs that a cut of what is dead would leave; for a penalty steered by that.

    Returns:
        What the metrics say of this epoch: ``strength`` (that was in force in it), ``dead_share`` and ``macs_left`` (after it),
        each None where it is not known.
    """
    record: dict[str, Any] = {"strength": None, "dead_share": None, "macs_left": None}
    if not isinstance(regularizer, Steered):
        return record
    record["strength"] = regularizer.strength
    measured = None if macs_left is None else macs_left()
    share = regularizer.epoch_end(measured)
    return {**record, "macs_left": measured} if measured is not None else {**record, "dead_share": share}
