"""Which labels of a restructured model are which of the dense one's, and what leaves the one where channels leave the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flowprune.engine.allocation import BranchChange
from flowprune.engine.branches.deciding import Terms
from flowprune.engine.coupling.labels import Array
from flowprune.engine.planning import CoupledModel
from flowprune.engine.surgery.branch_modules import CONSTANT, PLACES, READS

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ChangedBranch:
    """A branch that is not left as it is.

    Attributes:
        change: what becomes of it.
        dead: [channels] which of its ends are dead; of one that reads less, which channels need not be read.
        tensors: names of the tensors that are the branch's alone.
        constant: [channels] float64: what a dead end says, 0 where it lives; None of one that reads less.
    """

    change: BranchChange
    dead: Mask
    tensors: frozenset[str]
    constant: torch.Tensor | None = None

    @property
    def has_labels(self) -> bool:
        """Whether its ends, or what it reads, are channels of their own in the restructured model."""
        return self.change.kind in ("opened", "reading")


class LinkedLabels:
    """The labels of the dense model and of the restructured one, by the names and indices they have in common."""

    def __init__(self, dense: CoupledModel, opened: CoupledModel) -> None:
        self._dense = dense.coupling
        self._opened = opened.coupling
        # [dense labels] -> the label of the same index of the same parameter in the restructured model, -1 where there is none
        self._link = np.full(self._dense.notes.labels, -1, dtype=np.int64)
        for slot in self._dense.notes.slots:
            other = self._opened.notes.slot_of.get((slot.name, slot.dimension))
            if other is not None:
                self._link[slot.first : slot.first + slot.size] = other.labels

    def tied(self, branches: Mapping[str, ChangedBranch]) -> list[str]:
        """The branches whose dead channels are not their own, as behind a depthwise convolution of the stream, or may not leave."""
        coupling = self._opened
        found: list[str] = []
        may_leave = np.zeros(coupling.notes.labels, dtype=bool)
        for channels in coupling.channels:
            may_leave[channels] = True
        for key, branch in branches.items():
            if not branch.has_labels:
                continue
            buffer = f"{branch.change.module}.{PLACES if branch.change.kind == 'opened' else READS}"
            chosen = coupling.roots[coupling.notes.slot_of[buffer, 0].labels][branch.dead]
            leaving = np.zeros(coupling.notes.labels, dtype=bool)
            leaving[chosen] = True
            own = branch.tensors | {buffer}
            others = (slot for slot in coupling.notes.slots if slot.name not in own)
            if not may_leave[chosen].all() or any(leaving[coupling.roots[slot.labels]].any() for slot in others):
                found.append(key)
        return found

    def removed(self, branches: Mapping[str, ChangedBranch], removed: Mask, terms: Terms) -> Mask:
        """What leaves the restructured model where ``removed`` leaves the dense one, both by component: that, and the dead ends."""
        coupling = self._opened
        gone = self._link[np.flatnonzero(removed[self._dense.roots])] if removed.any() else np.empty(0, dtype=np.int64)
        result = np.zeros(coupling.notes.labels, dtype=bool)
        result[coupling.roots[gone[gone >= 0]]] = True
        for branch in branches.values():
            if not branch.has_labels:
                continue
            chosen, stream_gone = self.chosen(branch.change, result, removed)
            result[chosen[branch.dead]] = True
            live = int((~result[chosen]).sum())
            possible = np.flatnonzero(~stream_gone & result[chosen])
            result[chosen[possible[: terms.width(live) - live]]] = False
        return result

    def chosen(self, change: BranchChange, gone: Mask, removed: Mask) -> tuple[Array, Mask]:
        """[channels] the components of an opened branch's ends, or of what one reads; and which of them leave the stream there.

        Args:
            change: the branch.
            gone: what leaves the restructured model, by component.
            removed: what leaves the dense one.
        """
        coupling = self._opened
        slot_of = coupling.notes.slot_of
        if change.kind == "opened":
            stream = slot_of[f"{change.module}.{CONSTANT}", 1]
            ends = slot_of[f"{change.module}.{PLACES}", 0]
            return coupling.roots[ends.labels], gone[coupling.roots[stream.labels]]
        read = self._dense.notes.slot_of[f"{change.module}.weight", 1]
        return coupling.roots[slot_of[f"{change.module}.{READS}", 0].labels], removed[self._dense.roots[read.labels]]
