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
from flowprune.engine.allocation.composition import merged_layers
from flowprune.engine.branches.alignment import departure, touched_by, with_operators
from flowprune.engine.branches.deciding import Terms, change_of_end, change_of_reader
from flowprune.engine.branches.ends import BranchEnd, find_ends
from flowprune.engine.branches.linked_labels import ChangedBranch, LinkedLabels
from flowprune.engine.branches.readers import find_readers, unread
from flowprune.engine.branches.silenced_ends import TOLERANCE, difference, silenced, silences
from flowprune.engine.constants import Folding
from flowprune.engine.coupling.notes import Freeze
from flowprune.engine.measuring import reference_scale
from flowprune.engine.measuring.filter_scales import DEAD_BELOW
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
        branches: the branches that are changed, by their last module, or their first convolution where that reads less.
        left: last module of a branch (or its last layer) -> why it keeps its dead ends.
        opened: the restructured model; None while no branch is changed.
    """

    model: nn.Module
    inputs: Any
    heads: str
    dense: CoupledModel
    terms: Terms
    silent: Mapping[str, Mask]
    layers: Sequence[FilterLayer]
    branches: dict[str, ChangedBranch] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    opened: CoupledModel | None = None
    _labels: LinkedLabels | None = None

    @classmethod
    def of(cls, model: nn.Module, inputs: Any, dense: CoupledModel, scales: Scales, request: Request) -> BranchRemoval:
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
        terms = Terms(
            request.fold_tolerance * reference_scale(scales), request.branches == "always", request.width_multiple
        )
        removal = cls(model, inputs, request.heads, dense, terms, dead, tuple(scales))
        ends, refused = find_ends(model, dense.graph, removal.layers)
        removal.left.update({name: why for name, why in refused.items() if name in dead and dead[name].any()})
        removal._decide(ends)
        removal._restructure()
        return removal

    @property
    def is_empty(self) -> bool:
        """Whether no branch is changed."""
        return not self.branches

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
                    self.branches.pop(other, None)
            self.branches[end.module] = ChangedBranch(decided[0], np.array(mask), end.tensors, decided[1])
        changes = [branch.change for branch in self.branches.values()]
        gone = [path for change in changes if change.kind != "opened" for path in touched_by(change)]
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
                    own = frozenset({f"{reader.module}.weight"})
                    self.branches[reader.module] = ChangedBranch(change, found[reader.module], own)

    def _restructure(self) -> None:
        """Restructure, compare with the dense passes, and analyse; what cannot be shown to be the same is left out."""
        while self.branches:
            changes = tuple(branch.change for branch in self.branches.values())
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
                for key, branch in self.branches.items():
                    self.branches[key] = replace(branch, change=with_operators(branch.change, *graphs))
                self._labels = LinkedLabels(self.dense, opened)
                tied = self._labels.tied(self.branches)
                for key in tied:
                    self.drop(key, "its channels are tied to others, or have to stay", analyse=False)
                if tied:
                    continue
                reason = self._miscalculation()
            if reason is None:
                return
            self.drop(self._suspect(changes, reason), f"without its dead ends {reason}", analyse=False)
        self.opened = None

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
            if key in self.branches and self.branches[key].change.kind == "vanished"
        }
        expected = silenced(self.model, said | nothing_said)
        found = difference(cut(silenced(self.model, said), plan), expected, self.inputs)
        return None if found is None or found <= TOLERANCE else f"the model computes something else (by {found:.2g})"

    def _suspect(self, changes: Sequence[BranchChange], reason: str) -> str:
        """The branch to do without: a changed one whose path the reason names, else the last."""
        keys = list(self.branches)
        named = [key for key in keys if self.branches[key].change.module.rpartition(".")[0] in reason]
        closed = [key for key in keys if self.branches[key].change.kind != "opened"]
        return (named or closed or keys)[-1]

    def drop(self, key: str, reason: str, analyse: bool = True) -> None:
        """Leave a branch as it is."""
        self.left[key] = reason
        self.branches.pop(key, None)
        if analyse:
            self._restructure()

    def removed(self, removed: Mask) -> Mask:
        """What leaves the restructured model where ``removed`` leaves the dense one, both by component: that, and the dead ends."""
        assert self._labels is not None
        return self._labels.removed(self.branches, removed, self.terms)

    def count(self, kind: str, removed: Mask) -> int:
        """Exact MACs of the traced batch, or parameters, of the whole cut."""
        assert self.opened is not None
        model = self.opened.macs if kind == "macs" else self.opened.params
        return model.count_removed(self.removed(removed))

    def _assembled(self, selection: Selection, request: Request) -> tuple[Plan | list[Freeze | Contradiction], Mask]:
        """The plan of the restructured model that takes what ``selection`` takes of the dense one, and the dead ends; and by
        component what leaves. Or what would have to stay."""
        assert self.opened is not None and self._labels is not None
        mask = self.removed(selection.removed)
        known = {name for name, _ in self.opened.coupling.notes.slot_of}
        shifts = {name: shift for name, shift in selection.folding.shifts.items() if name in known}
        folds = [fold for fold in selection.folding.folds if fold.target in known]
        changes: list[BranchChange] = []
        for branch in self.branches.values():
            change = branch.change
            if branch.has_labels:
                chosen, stream_gone = self._labels.chosen(change, mask, selection.removed)
                change = replace(change, live=int((~mask[chosen]).sum()))
            if change.kind == "reading":
                change = replace(change, stream_removed=tuple(np.flatnonzero(stream_gone).tolist()))
            elif change.kind != "vanished":
                assert branch.constant is not None
                said = branch.constant.clone()
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
            self.drop(next(reversed(self.branches)), assembled[0].reason)
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
