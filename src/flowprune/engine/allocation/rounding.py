"""Widths that are multiples: from how many channels a budget takes to the nearest counts that every layer may have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowprune.engine.coupling import Coupling
from flowprune.engine.coupling.labels import Array

MOST_REMAINDERS = 1 << 18
"""Combinations of remainders that are looked at for classes that share a layer; beyond it some are left out."""


@dataclass(frozen=True)
class Width:
    """The output width of a layer: ``dense`` less ``losses`` [classes] times the steps that the classes take."""

    layer: str
    dense: int
    losses: Array

    def after(self, lost: Array) -> int:
        """The width after each class took ``lost`` steps."""
        return self.dense - int(self.losses @ lost)


def widths_of(coupling: Coupling) -> tuple[Width, ...]:
    """Every layer that makes channels which may leave, in the model's order."""
    found: dict[tuple[str, int], Array] = {}
    for number, groups in enumerate(coupling.classes):
        for group in groups:
            for maker in coupling.groups[group].makers:
                none = np.zeros(len(coupling.classes), dtype=np.int64)
                losses = found.setdefault((maker.name, maker.dimension), none)
                losses[number] += maker.indices.shape[1] * coupling.strides[group]
    return tuple(
        Width(slot.name.rpartition(".")[0] or slot.name, slot.size, found[slot.name, slot.dimension])
        for slot in coupling.notes.slots
        if (slot.name, slot.dimension) in found
    )


class Rounding:
    """The counts under which the width of every layer is a multiple.

    A class of groups may take ``remainder + k * step`` steps, where ``step`` is the smallest number that keeps the widths of all
    its layers multiples. Classes that share a layer (the stages of a ResNet whose shortcuts pad channels) have their remainders
    chosen together.

    Attributes:
        multiple: what every width is to be a multiple of.
        limits: [classes]: how many steps each class may take; 0 where a layer of it can be no multiple, and so stays whole.
        steps: [classes]: the smallest step that leads from one allowed count to another.
        unmet: layer -> why its width is no multiple.

    Args:
        narrower: a layer whose width can be no multiple takes multiples of the half, the quarter, ... instead of staying whole.
    """

    def __init__(self, coupling: Coupling, limits: Array, multiple: int = 1, *, narrower: bool = False) -> None:
        self.multiple, self.narrower = multiple, narrower
        self._own: dict[str, int] = {}  # layer -> its multiple, where that is another one
        self.limits = limits.copy()
        self.steps = np.ones(len(limits), dtype=np.int64)
        self.unmet: dict[str, str] = {}
        self._together: list[tuple[Array, Array]] = []  # classes [k], their allowed remainders [n, k]
        self._weights = np.ones(len(limits), dtype=np.int64)
        if multiple == 1 or not len(limits):
            return
        widths = self._possible(widths_of(coupling))
        for width in widths:
            self._weights = np.maximum(self._weights, width.losses)
            for number in np.flatnonzero((width.losses > 0) & (self.limits > 0)):
                wanted = self._of(width)
                step = wanted // math.gcd(int(width.losses[number]), wanted)
                self.steps[number] = math.lcm(int(self.steps[number]), step)
        for numbers, own in _sharing(widths, self.limits):
            self._together.append((np.array(numbers, dtype=np.int64), self._remainders(numbers, own)))

    def _of(self, width: Width) -> int:
        return self._own.get(width.layer, self.multiple)

    def _halved(self, width: Width) -> bool:
        """Let the layer have smaller multiples; False where it has the smallest, or is not to."""
        own = self._of(width)
        if not self.narrower or own == 1:
            return False
        self._own[width.layer] = own // 2
        return True

    def _possible(self, widths: Sequence[Width]) -> list[Width]:
        """The layers that have an allowed width; the others stay whole, which may cost further layers theirs."""
        left = list(widths)
        while True:
            for width in left:
                smallest = width.after(self.limits)
                while width.dense // self._of(width) * self._of(width) < max(smallest, 1) and self._halved(width):
                    pass
                if width.dense // self._of(width) * self._of(width) < max(smallest, 1):
                    between = f"between {smallest} and {width.dense}" if smallest < width.dense else f"in {width.dense}"
                    self.unmet[width.layer] = f"there is no multiple of {self.multiple} {between}"
                    self.limits[width.losses > 0] = 0
                    left.remove(width)
                    break
            else:
                return left

    def _remainders(self, numbers: Sequence[int], widths: Sequence[Width]) -> Array:
        """[n, classes]: how many steps below its own ``step`` each class may take so that all widths are multiples."""
        found = np.zeros((1, len(numbers)), dtype=np.int64)
        spread: set[int] = set()
        for width in widths:
            wider = found
            new = [c for c in range(len(numbers)) if width.losses[numbers[c]] and c not in spread]
            for c in new:
                choices = np.arange(min(self.steps[numbers[c]], self.limits[numbers[c]] + 1))
                if len(wider) * len(choices) > MOST_REMAINDERS:
                    choices = choices[:1]
                wider = np.repeat(wider, len(choices), axis=0)
                wider[:, c] = np.tile(choices, len(wider) // len(choices))
            reached = width.dense - wider @ width.losses[list(numbers)]
            fitting = wider[reached % self._of(width) == 0]
            while not len(fitting) and self._halved(width):
                fitting = wider[reached % self._of(width) == 0]
            if len(fitting):
                found = fitting
                spread.update(new)
            else:
                self.unmet[width.layer] = (
                    f"{width.dense} less what leaves {widths[0].layer} with it is no multiple of {self.multiple}"
                    if width is not widths[0]
                    else f"no allowed number of channels leaves a multiple of {self.multiple} of {width.dense}"
                )
        return found

    def nearest(self, asked: Array) -> Array:
        """The allowed counts nearest to ``asked`` [classes]; of two that are equally near, the one under which more stays.

        Near is meant in channels, summed over the classes that share a layer.
        """
        result = np.minimum(asked, self.limits)
        for numbers, remainders in self._together:
            step, limit, wanted = self.steps[numbers], self.limits[numbers], asked[numbers]
            most = (limit - remainders) // step
            times = np.clip(np.ceil((wanted - remainders) / step - 0.5).astype(np.int64), 0, most)
            reached = remainders + times * step
            weights = self._weights[numbers]
            distance = (np.abs(reached - wanted) * weights).sum(axis=1)
            fewest = (reached * weights).sum(axis=1)
            result[numbers] = reached[np.lexsort((*reached.T[::-1], fewest, distance))[0]]
        return np.asarray(result, dtype=np.int64)


def _sharing(widths: Sequence[Width], limits: Array) -> list[tuple[list[int], list[Width]]]:
    """The classes that may lose something, brought together where they share a layer, with the layers that they have."""
    parts: list[tuple[set[int], list[Width]]] = []
    for width in widths:
        own = {int(number) for number in np.flatnonzero((width.losses > 0) & (limits > 0))}
        if not own:
            continue
        joined = [part for part in parts if part[0] & own]
        parts = [part for part in parts if not part[0] & own]
        layers = [layer for part in joined for layer in part[1]]
        parts.append((own.union(*(part[0] for part in joined)), [*layers, width]))
    return [(sorted(numbers), sorted(layers, key=_few_classes_first)) for numbers, layers in parts]


def _few_classes_first(width: Width) -> int:
    """A layer with a single class leaves the least choice, and so is looked at first."""
    return int((width.losses > 0).sum())
