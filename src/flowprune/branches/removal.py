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

from flowprune.allocation import BranchChange, Budget, Fit, LayerChange, Plan
from flowprune.branches.alignment import departure, operators_in
from flowprune.branches.ends import BranchEnd, block_around, find_ends, stand_ins
from flowprune.branches.modules import CONSTANT, PLACES
from flowprune.branches.numerics import TOLERANCE, difference, silenced
from flowprune.branches.restructuring import restructured
from flowprune.branches.worth import is_worth_opening
from flowprune.coupling.analysis import Freeze
from flowprune.coupling.labels import Array
from flowprune.errors import FlowpruneError
from flowprune.importance.protocol import Importance
from flowprune.measuring.filter_layers import tensors_of
from flowprune.planning import CoupledModel, Selection, assemble
from flowprune.surgery import Folding, certify, cut, cut_on_meta
from flowprune.surgery.constants import constants_behind

Mask = NDArray[np.bool_]

SMALLEST_WIDTH = 2
"""Ends an opened branch keeps at least, as every dimension does."""


@dataclass
class BranchRemoval:
    """The dead branch ends of a model, and the model restructured for their removal.

    Attributes:
        changes: what becomes of which branch.
        left: last module of a branch (or its last layer) -> why it keeps its dead ends.
        dead: last module -> [channels] which of its ends are dead.
        constants: last module or block -> [channels] float64: what a dead end says, 0 where it lives.
    """

    model: nn.Module
    inputs: Any
    heads: str
    dense: CoupledModel
    round_to: int = 1
    changes: dict[str, BranchChange] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    dead: dict[str, Mask] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    opened: CoupledModel | None = None
    _link: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Any,
        dense: CoupledModel,
        dead: Mapping[str, Mask],
        layers: Sequence[Any],
        reference: float,
        tolerance: float,
        always: bool,
        heads: str,
        round_to: int,
    ) -> BranchRemoval:
        """Decide which branches are changed, and how; then restructure the model and analyse it.

        Args:
            model, inputs: the dense model and example inputs.
            dense: its analysis.
            dead: layer -> which of its filters are dead.
            layers: the model's filter layers.
            reference: the 90th percentile of the network's filter scales.
            tolerance: a branch without a live end vanishes where it would, but for constants below this share of ``reference``.
            always: open branches also where the index costs more than it saves.
            heads, round_to: see ``flowprune.plan``; so many ends stay that a branch's width is a multiple.
        """
        removal = cls(model, inputs, heads, dense, round_to)
        graph = dense.graph
        ends, refused = find_ends(model, graph, layers)
        removal.left.update({name: why for name, why in refused.items() if name in dead and dead[name].any()})
        asked = dense.kept_as_asked()
        for end in ends:
            mask = dead.get(end.layer.name)
            if mask is None or not mask.any():
                continue
            if asked & end.tensors:
                removal.left[end.module] = "it is to stay as it is, as asked"
                continue
            within = [other.module for other in ends if other.addition.index in end.alone]
            removal._decide(end, np.array(mask), reference * tolerance, always, within)
        removal._restructure()
        return removal

    @property
    def is_empty(self) -> bool:
        """Whether no branch is changed."""
        return not self.changes

    def _decide(self, end: BranchEnd, dead: Mask, negligible: float, always: bool, within: Sequence[str] = ()) -> None:
        """What becomes of one branch; ``within`` are the ends of the branches that nothing but this one needs."""
        graph = self.dense.graph
        width, live = len(dead), int((~dead).sum())
        norm = graph.producers()[end.value]
        found = constants_behind(norm, graph, graph.producers(), tensors_of(self.model))
        if found is None:
            self.left[end.module] = "its batch norm keeps no statistics"
            return
        said = torch.where(torch.from_numpy(dead), found[1].detach().double().cpu(), 0.0)
        change = BranchChange(end.module, "opened", end.layer.name, width, live, end.rank)
        if live == 0:
            block = block_around(graph, end)
            inner = stand_ins(self.model, graph, end)
            if block is not None:
                vanishes = block.changes_nothing and bool((said.abs() <= negligible).all())
                kind = "vanished" if vanishes else "constant"
                change = replace(change, module=block.module, kind=kind, activation=block.activation)
                for other in within:  # gone with the block around it
                    self._forget(other)
            elif isinstance(inner, tuple) and not within:
                change = replace(change, kind="ended", stand_ins=inner)
        if change.kind == "opened":
            macs = self._macs_of(end)
            gone = width - self._width(live)
            if gone < 1:
                self.left[end.module] = "too few are dead for a narrower branch"
                return
            if not always and not is_worth_opening(width, width - gone, macs // width, end.positions):
                self.left[end.module] = (
                    f"putting {width - gone} of {width} channels at their places costs more than it saves"
                )
                return
        self.changes[end.module] = change
        self.dead[end.module], self.constants[end.module] = dead, said

    def _macs_of(self, end: BranchEnd) -> int:
        """Multiply-accumulates of an image in the layer that makes the ends."""
        made = {index for index, _ in end.layer.positions}
        total = 0
        for cost in self.dense.coupling.notes.costs:
            if cost.operation in made:
                total += cost.constant * int(np.prod([len(factor) for factor in cost.factors], dtype=np.int64))
        return total // self.dense.batch

    def _restructure(self) -> None:
        """Restructure, compare with the dense passes, and analyse; what cannot be shown to be the same is left out."""
        while self.changes:
            changes = tuple(self.changes.values())
            places = frozenset(f"{change.module}.{PLACES}" for change in changes if change.kind == "opened")
            touched = {path for change in changes for path in (change.module, *change.stand_ins)}
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
                self._list_operators(opened)
                self._link_labels(opened)
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
        plan, _ = self._assembled(alone, Budget("threshold", share=1.0), None, 1)
        if not isinstance(plan, Plan):
            return f"it could not be cut ({plan[0].reason})"
        said = {
            key: torch.zeros_like(self.constants[key]) if change.kind == "vanished" else self.constants[key]
            for key, change in self.changes.items()
        }
        found = difference(cut(self.model, plan), silenced(self.model, self.dead, said), self.inputs)
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
        for held in (self.changes, self.dead, self.constants):
            held.pop(key, None)

    def _list_operators(self, opened: CoupledModel) -> None:
        for key, change in self.changes.items():
            touched = (change.module, *change.stand_ins)
            before, after = operators_in(self.dense.graph, touched), operators_in(opened.graph, touched)
            self.changes[key] = replace(
                change,
                inserted=tuple(sorted((after - before).elements())),
                deleted=tuple(sorted((before - after).elements())),
            )

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
            if change.kind != "opened":
                continue
            ends, stream = self._ends(change)
            result[ends[self.dead[key]]] = True
            lacking = self._width(int((~result[ends]).sum())) - int((~result[ends]).sum())
            if lacking > 0:
                possible = np.flatnonzero(~result[stream] & result[ends])
                result[ends[possible[:lacking]]] = False
        return result

    def _width(self, live: int) -> int:
        """How many ends an opened branch with so many live ones keeps."""
        return max(SMALLEST_WIDTH, -(-live // self.round_to) * self.round_to)

    def _ends(self, change: BranchChange) -> tuple[Array, Array]:
        """The components of an opened branch's ends, and of the stream's channels at their places."""
        assert self.opened is not None
        coupling = self.opened.coupling
        slot_of = coupling.notes.slot_of
        ends, stream = slot_of[f"{change.module}.{PLACES}", 0], slot_of[f"{change.module}.{CONSTANT}", 1]
        return coupling.roots[ends.labels], coupling.roots[stream.labels]

    def count(self, kind: str, removed: Mask) -> int:
        """Exact MACs of the traced batch, or parameters, of the whole cut."""
        assert self.opened is not None
        model = self.opened.macs if kind == "macs" else self.opened.params
        return model.count_removed(self.removed(removed))

    def _assembled(
        self, selection: Selection, budget: Budget, importance: Importance | None, round_to: int
    ) -> tuple[Plan | list[Freeze], Mask]:
        """The plan of the restructured model that takes what ``selection`` takes of the dense one, and the dead ends; and by
        component what leaves. Or what would have to stay."""
        assert self.opened is not None
        mask = self.removed(selection.removed)
        known = {name for name, _ in self.opened.coupling.notes.slot_of}
        shifts = {name: shift for name, shift in selection.folding.shifts.items() if name in known}
        folds = [fold for fold in selection.folding.folds if fold.target in known]
        changes: list[BranchChange] = []
        for key, change in self.changes.items():
            if change.kind != "vanished":
                said = self.constants[key].clone()
                if change.kind == "opened":
                    ends, _ = self._ends(change)
                    gone = torch.from_numpy(mask[ends])
                    said[~gone] = 0.0
                    change = replace(change, live=int((~gone).sum()))
                shifts[f"{change.module}.{CONSTANT}"] = said.reshape([1, -1, *[1] * (change.rank - 2)])
            changes.append(change)
        own = replace(selection, removed=mask, folding=Folding(folds, shifts, set()))
        plan = assemble(own, self.opened, budget, importance, round_to)
        return (replace(plan, branches=tuple(changes)) if isinstance(plan, Plan) else plan), mask

    def carried_out(
        self, made: Plan, selection: Selection, budget: Budget, importance: Importance | None, round_to: int
    ) -> Plan | None:
        """The plan with its branches, certified; None where something was refused, and a branch less is changed from now on.

        Args:
            made: the certified plan of the model as it is.
            selection: what it takes.
            budget, importance, round_to: what was asked.
        """
        assert self.opened is not None
        assembled, mask = self._assembled(selection, budget, importance, round_to)
        if not isinstance(assembled, Plan):
            self.drop(next(reversed(self.changes)), assembled[0].reason)
            return None
        plan = replace(
            assembled,
            layers=_layers(made.layers, assembled.layers),
            macs=(made.macs[0], assembled.macs[1]),
            params=(made.params[0], assembled.params[1]),
            frozen=made.frozen,
            branches_left=dict(self.left),
        )
        candidate = cut_on_meta(self.model, plan) if self.opened.runs_on_meta else cut(self.model, plan)
        refusal = certify(candidate, self.inputs, plan, self.opened.coupling, self.opened.passes, mask)
        if refusal is None:
            return plan
        passes = self.opened.passes
        operation = next(p for p in passes if p.graph.training == refusal.training).graph.operations[refusal.operation]
        self.drop(
            self._suspect(plan.branches, operation.module),
            f"the cut could not be certified: {refusal.reason} ({operation.name})",
        )
        return None


def _layers(dense: Sequence[LayerChange], opened: Sequence[LayerChange]) -> tuple[LayerChange, ...]:
    """Every layer of the dense model, with what is left of it; nothing of those whose branch is gone."""
    after = {change.layer: change for change in opened}
    result: list[LayerChange] = []
    for change in dense:
        left = after.get(change.layer)
        ends = (left.channels[1], left.macs[1], left.params[1]) if left is not None else (0, 0, 0)
        result.append(
            LayerChange(
                change.layer, (change.channels[0], ends[0]), (change.macs[0], ends[1]), (change.params[0], ends[2])
            )
        )
    return tuple(result)
