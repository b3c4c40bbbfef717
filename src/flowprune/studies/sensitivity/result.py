"""What a scan found: accuracy by group and share, and the per-layer allocation that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from flowprune.errors import BudgetError


@dataclass(frozen=True)
class CutPoint:
    """One cut of one class of groups, everything else whole.

    Attributes:
        share: of the channels that was to leave.
        removed: channels of each group that did leave; fewer than asked where a dimension must keep two, or nothing more can.
        macs, params: of the small model, exactly counted; MACs of an image.
        accuracy: what ``evaluate`` said of the small model.
    """

    share: float
    removed: int
    macs: int
    params: int
    accuracy: float


@dataclass(frozen=True)
class GroupSensitivity:
    """Groups that must lose equally many channels, and what they cost.

    Attributes:
        groups: their names, as ``flowprune.explain`` shows them.
        layers: whose filters they are.
        channels: of each group.
        points: by ascending share.
    """

    groups: tuple[str, ...]
    layers: tuple[str, ...]
    channels: int
    points: tuple[CutPoint, ...]

    @property
    def name(self) -> str:
        """Of the first group, and how many follow."""
        more = len(self.groups) - 1
        return self.groups[0] + (f" (+{more})" if more else "")

    def removable(self, floor: float) -> int:
        """The most channels of each group whose loss, and that of every smaller measured number, leaves at least ``floor``."""
        found = 0
        for point in self.points:
            if point.accuracy < floor:
                break
            found = point.removed
        return found


@dataclass(frozen=True)
class Sensitivity:
    """A whole scan.

    Attributes:
        accuracy, macs, params: of the dense model.
        importance: the criterion's name.
        shares: that were asked of every group.
        rows: one a class of coupled groups, in the order of their first layers.
    """

    accuracy: float
    macs: int
    params: int
    importance: str
    shares: tuple[float, ...]
    rows: tuple[GroupSensitivity, ...]

    def allocation(self, drop: float) -> dict[str, float]:
        """The share that every group keeps, if each alone may cost at most ``drop`` of accuracy: for ``plan(channels=...)``.

        All of it together costs more than any of its parts; test the result.

        Args:
            drop: in the unit of ``evaluate`` (percentage points, where that returns per cent).

        Raises:
            BudgetError: ``drop`` is negative or no number.
        """
        if not drop >= 0:
            raise BudgetError(f"drop={drop!r} is not a loss of accuracy: use a number from 0 on")
        kept = {}
        for row in self.rows:
            share = (row.channels - row.removable(self.accuracy - drop)) / row.channels
            kept.update(dict.fromkeys(row.groups, share))
        return kept

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Sensitivity:
        """What ``as_dict`` wrote; further keys are left aside."""
        return TypeAdapter(cls).validate_python(written)

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [8])
        header = "".join(f"{100 * share:>7.0f}%" for share in self.shares)
        lines = [f"{'removed':<{width}} {'channels':>8} {header}"]
        for row in self.rows:
            cells = "".join(f"{point.accuracy:>8.2f}" for point in row.points)
            lines.append(f"{row.name:<{width}} {row.channels:>8} {cells}")
        lines.append(f"dense: {self.accuracy:.2f}; each group cut alone, ranked by {self.importance}")
        return "\n".join(lines)
