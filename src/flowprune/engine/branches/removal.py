"""Plan the removal of dead branch ends: restructure first, prune second.

The model is restructured with everything alive, so that it still computes the same and a branch's ends are channels of their own.
The ordinary engine then analyses that model, counts it, and certifies the cut. What the stream and the inside of the branches lose
is chosen on the model as it is, where a stream and all its branches are one group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.allocation import BranchChange, Budget, Fit, Plan
from flowprune.engine.branches.alignment import departure, touched_by, with_operators
from flowprune.engine.branches.deciding import Terms, change_of_end, change_of_reader
from flowprune.engine.branches.ends import BranchEnd, find_ends
from flowprune.engine.branches.merged_layers import merged_layers
from flowprune.engine.branches.readers import find_readers, unread
from flowprune.engine.branches.silenced_ends import TOLERANCE, difference, silenced, silences
from flowprune.engine.constants import Folding
from flowprune.engine.coupling.labels import Array
from flowprune.engine.coupling.notes import Freeze
from flowprune.engine.measuring import reference_scale
from flowprune.engine.measuring.dead_filters import DEAD_BELOW
from flowprune.engine.planning import CoupledModel, Request, Selection, assemble
from flowprune.engine.planning.contradictions import Contradiction
from flowprune.engine.planning.selection import Scales, dead_by_layer
from flowprune.engine.surgery import cut
from flowprune.engine.surgery.branch_modules import CONSTANT, PLACES, READS
from flowprune.engine.surgery.restructuring import restructured
from flowprune.engine.tracing import FilterLayer
from flowprune.errors import FlowpruneError

Mask = NDArray[np.bool_]


@dataclass
class BranchRemoval:
    """The dead branch ends of a model, and the model restructured for their removal.

    Attributes:
        terms: on which branches are changed.
        silent: layer -> which of its filters are dead.
        layers: the model's filter layers.
        changes: what becomes of which branch, by its last module, or its first convolution where that reads less.
        left: last module of a branch (or its last layer) -> why it keeps its dead ends.
        dead: last module -> [channels] which of its ends are dead; first convolution -> which of its channels need not be read.
        constants: last module -> [channels] float64: what a dead end says, 0 where it lives.
        tensors: last module, or first convolution -> names of the tensors that are the branch's alone.
    """

    model: nn.Module
    inputs: Any
    heads: str
    dense: CoupledModel
    terms: Terms
    silent: Mapping[str, Mask]
    layers: Sequence[FilterLayer]
    changes: dict[str, BranchChange] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    dead: dict[str, Mask] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    tensors: dict[str, frozenset[str]] = field(default_factory=dict)
    opened: CoupledModel | None = None
    _link: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Any,
        dense: CoupledModel,
        scales: Scales,
        request: Request,
    ) -> BranchRemoval:
        """Decide which branches are changed, and how; then restructure the model and analyse it.

        Args:
            model, inputs: the dense model and example inputs.
            dense: its analysis.
            scales: every filter's scale.
            request: what is asked. Dead is what its threshold says; under another budget, what is so beyond doubt.
        """
        budget = request.budget
        threshold = budget.share if budget.kind == "threshold" and isinstance(budget.share, float) else DEAD_BELOW
        dead = dead_by_layer(scales, threshold)
        terms = Terms(request.fold_tolerance * reference_scale(scales), request.branches == "always", request.round_to)
        removal = cls(model, inputs, request.heads, dense, terms, dead, tuple(scales))
        ends, refused = find_ends(model, dense.graph, removal.layers)
        removal.left.update({name: why for name, why in refused.items() if name in dead and dead[name].any()})
        removal._decide(ends)
        removal._restructure()
        return removal

    @property
    def is_empty(self) -> bool:
        """Whether no branch is changed."""
        return not self.changes

    def _decide(self, ends: Sequence[BranchEnd]) -> None:
        asked = self.dense.kept_as_asked()
        for end in ends:
            mask = self.silent.get(end.layer.name)
            if mask is None or not mask.any():
                continue
            if asked & end.tensors:
                self.left[end.module] = "it is to stay as it is, as asked"
                continue
            within = [other.module for other in ends if other.addition.index in end.alone]
            decided = change_of_end(self.model, self.dense, end, np.array(mask), within, self.terms)
            if isinstance(decided, str):
                self.left[end.module] = decided
                continue
            if decided[0].kind in ("constant", "vanished"):
                for other in within:  # gone with the block around it
                    self._forget(other)
            self.changes[end.module], self.constants[end.module] = decided
            self.dead[end.module], self.tensors[end.module] = np.array(mask), end.tensors
        gone = [path for change in self.changes.values() if change.kind != "opened" for path in touched_by(change)]
        readers = [
            reader
            for reader in find_readers(self.model, self.dense.graph, ends, asked)
            if not any(f"{reader.module}.".startswith(f"{path}.") for path in gone)
        ]
        found = unread(self.model, self.inputs, self.dense.passes[0], readers, self.silent)
        for reader in readers:
            if reader.module in found:
                change = change_of_reader(self.dense, reader, found[reader.module], self.terms)
                if change is not None:
                    self.changes[reader.module], self.dead[reader.module] = change, found[reader.module]
                    self.tensors[reader.module] = frozenset({f"{reader.module}.weight"})

    def _restructure(self) -> None:
        """Restructure, compare with the dense passes, and analyse; what cannot be shown to be the same is left out."""
        while self.changes:
            changes = tuple(self.changes.values())
            places = frozenset(f"{change.module}.{buffer}" for change in changes for buffer in (PLACES, READS))
            touched = {path for change in changes for path in touched_by(change)}
            try:
                changed = restructured(self.model, changes)
                opened = CoupledModel.of(changed, self.inputs, heads=self.heads, places=places)
            except FlowpruneError as error:  # code that looks at what a branch is made of
                self.drop(self._suspect(changes, str(error)), f"without it, {error}", analyse=False)
                continue
            pairs = zip(self.dense.passes, opened.passes, strict=True)
            reasons = (departure(before.graph, after.graph, touched) for before, after in pairs)
            reason = next((reason for reason in reasons if reason is not None), None)
            if reason is None:
                self.opened = opened
                graphs = self.dense.graph, opened.graph
                self.changes = {key: with_operators(change, *graphs) for key, change in self.changes.items()}
                self._link_labels(opened)
                tied = self._tied(opened)
                for key in tied:
                    self.drop(key, "its channels are tied to others, or have to stay", analyse=False)
                if tied:
                    continue
                reason = self._miscalculation()
            if reason is None:
                return
            self.drop(self._suspect(changes, reason), f"without its dead ends {reason}", analyse=False)
        self.opened = None

    def _tied(self, opened: CoupledModel) -> list[str]:
        """The branches whose dead channels are not their own, as behind a depthwise convolution of the stream, or may not leave."""
        coupling = opened.coupling
        found: list[str] = []
        may_leave = np.zeros(coupling.notes.labels, dtype=bool)
        for channels in coupling.channels:
            may_leave[channels] = True
        for key, change in self.changes.items():
            if change.kind not in ("opened", "reading"):
                continue
            buffer = PLACES if change.kind == "opened" else READS
            chosen = coupling.roots[coupling.notes.slot_of[f"{change.module}.{buffer}", 0].labels][self.dead[key]]
            leaving = np.zeros(coupling.notes.labels, dtype=bool)
            leaving[chosen] = True
            own = self.tensors[key] | {f"{change.module}.{buffer}"}
            others = (slot for slot in coupling.notes.slots if slot.name not in own)
            if not may_leave[chosen].all() or any(leaving[coupling.roots[slot.labels]].any() for slot in others):
                found.append(key)
        return found

    def _miscalculation(self) -> str | None:
        """How a cut of the dead ends alone differs from the model in which they are silent; None if it does not, or cannot run."""
        if any(tensor.is_meta for tensor in self.model.parameters()):
            return None
        nothing = np.zeros(self.dense.coupling.notes.labels, dtype=bool)
        alone = Selection(nothing, Folding(), {}, Fit(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)))
        plan, _ = self._assembled(alone, Request(Budget("threshold", share=1.0)))
        if not isinstance(plan, Plan):
            return f"it could not be cut ({plan[0].reason})"
        said = silences(self.model, self.dense.graph, self.layers, self.silent)
        nothing_said = {
            key: (mask, torch.zeros_like(constant))
            for key, (mask, constant) in said.items()
            if key in self.changes and self.changes[key].kind == "vanished"
        }
        expected = silenced(self.model, said | nothing_said)
        found = difference(cut(silenced(self.model, said), plan), expected, self.inputs)
        return None if found is None or found <= TOLERANCE else f"the model computes something else (by {found:.2g})"

    def _suspect(self, changes: Sequence[BranchChange], reason: str) -> str:
        """The branch to do without: a changed one whose path the reason names, else the last."""
        keys = list(self.changes)
        named = [key for key in keys if self.changes[key].module.rpartition(".")[0] in reason]
        closed = [key for key in keys if self.changes[key].kind != "opened"]
        return (named or closed or keys)[-1]

    def drop(self, key: str, reason: str, analyse: bool = True) -> None:
        """Leave a branch as it is."""
        self.left[key] = reason
        self._forget(key)
        if analyse:
            self._restructure()

    def _forget(self, key: str) -> None:
        for held in (self.changes, self.dead, self.constants, self.tensors):
            held.pop(key, None)

    def _link_labels(self, opened: CoupledModel) -> None:
        """[dense labels] -> the label of the same index of the same parameter in the restructured model, -1 where there is none."""
        notes = self.dense.coupling.notes
        self._link = np.full(notes.labels, -1, dtype=np.int64)
        for slot in notes.slots:
            other = opened.coupling.notes.slot_of.get((slot.name, slot.dimension))
            if other is not None:
                self._link[slot.first : slot.first + slot.size] = other.labels

    def removed(self, removed: Mask) -> Mask:
        """What leaves the restructured model where ``removed`` leaves the dense one, both by component: that, and the dead ends."""
        assert self.opened is not None
        dense, coupling = self.dense.coupling, self.opened.coupling
        gone = self._link[np.flatnonzero(removed[dense.roots])] if removed.any() else np.empty(0, dtype=np.int64)
        result = np.zeros(coupling.notes.labels, dtype=bool)
        result[coupling.roots[gone[gone >= 0]]] = True
        for key, change in self.changes.items():
            if change.kind not in ("opened", "reading"):
                continue
            chosen, stream_gone = self._chosen(change, result, removed)
            result[chosen[self.dead[key]]] = True
            live = int((~result[chosen]).sum())
            possible = np.flatnonzero(~stream_gone & result[chosen])
            result[chosen[possible[: self.terms.width(live) - live]]] = False
        return result

    def _chosen(self, change: BranchChange, gone: Mask, removed: Mask) -> tuple[Array, Mask]:
        """[channels] the components of an opened branch's ends, or of what one reads; and which of them leave the stream there.

        Args:
            change: the branch.
            gone: what leaves the restructured model, by component.
            removed: what leaves the dense one.
        """
        assert self.opened is not None
        coupling = self.opened.coupling
        slot_of = coupling.notes.slot_of
        if change.kind == "opened":
            stream = slot_of[f"{change.module}.{CONSTANT}", 1]
            ends = slot_of[f"{change.module}.{PLACES}", 0]
            return coupling.roots[ends.labels], gone[coupling.roots[stream.labels]]
        dense = self.dense.coupling
        read = dense.notes.slot_of[f"{change.module}.weight", 1]
        return coupling.roots[slot_of[f"{change.module}.{READS}", 0].labels], removed[dense.roots[read.labels]]

    def count(self, kind: str, removed: Mask) -> int:
        """Exact MACs of the traced batch, or parameters, of the whole cut."""
        assert self.opened is not None
        model = self.opened.macs if kind == "macs" else self.opened.params
        return model.count_removed(self.removed(removed))

    def _assembled(self, selection: Selection, request: Request) -> tuple[Plan | list[Freeze | Contradiction], Mask]:
        """The plan of the restructured model that takes what ``selection`` takes of the dense one, and the dead ends; and by
        component what leaves. Or what would have to stay."""
        assert self.opened is not None
        mask = self.removed(selection.removed)
        known = {name for name, _ in self.opened.coupling.notes.slot_of}
        shifts = {name: shift for name, shift in selection.folding.shifts.items() if name in known}
        folds = [fold for fold in selection.folding.folds if fold.target in known]
        changes: list[BranchChange] = []
        for key, change in self.changes.items():
            if change.kind in ("opened", "reading"):
                chosen, stream_gone = self._chosen(change, mask, selection.removed)
                change = replace(change, live=int((~mask[chosen]).sum()))
            if change.kind == "reading":
                change = replace(change, stream_removed=tuple(np.flatnonzero(stream_gone).tolist()))
            elif change.kind != "vanished":
                said = self.constants[key].clone()
                if change.kind == "opened":
                    said[torch.from_numpy(~mask[chosen])] = 0.0
                shifts[f"{change.module}.{CONSTANT}"] = said.reshape([1, -1, *[1] * (change.rank - 2)])
            changes.append(change)
        own = replace(selection, removed=mask, folding=Folding(folds, shifts, set()))
        plan = assemble(own, self.opened, request)
        return (replace(plan, branches=tuple(changes)) if isinstance(plan, Plan) else plan), mask

    def carried_out(self, made: Plan, selection: Selection, request: Request) -> Plan | None:
        """The plan with its branches, certified; None where something was refused, and a branch less is changed from now on.

        Args:
            made: the certified plan of the model as it is.
            selection: what it takes.
            request: what was asked.
        """
        assert self.opened is not None
        assembled, mask = self._assembled(selection, request)
        if not isinstance(assembled, Plan):
            self.drop(next(reversed(self.changes)), assembled[0].reason)
            return None
        plan = replace(
            assembled,
            layers=merged_layers(made.layers, assembled.layers),
            macs=(made.macs[0], assembled.macs[1]),
            params=(made.params[0], assembled.params[1]),
            frozen=made.frozen,
            branches_left=dict(self.left),
        )
        refusal = self.opened.refusal_of(plan, self.model, self.inputs, mask)
        if refusal is None:
            return plan
        passes = self.opened.passes
        operation = next(p for p in passes if p.graph.training == refusal.training).graph.operations[refusal.operation]
        self.drop(
            self._suspect(plan.branches, operation.module),
            f"the cut could not be certified: {refusal.reason} ({operation.name})",
        )
        return None
