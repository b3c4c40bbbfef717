"""What a training has decided, in a plan's terms: which channels leave, or what each of them is worth."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup, Coupling
from flowprune.engine.coupling.groups import Member
from flowprune.engine.coupling.roles import Roles, roles_in
from flowprune.engine.interfaces import Outcome
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.request import Request
from flowprune.errors import BudgetError, ModelError, hint

Mask = NDArray[np.bool_]

IN_STEP = "its channels leave in step with those of {other}, of which fewer are to leave"
LAST_TWO = "every dimension keeps two channels"


class Decided:
    """An importance that gives every channel the mean of what its makers' filters are worth by the scores of an outcome.

    A maker without scores has no say; a channel of which no maker has any is the last to leave.
    """

    def __init__(self, scores: Mapping[str, Tensor]) -> None:
        self._scores = {name: torch.as_tensor(score).detach().double().cpu() for name, score in scores.items()}

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[Tensor]:
        """See ``Importance``.

        Raises:
            ModelError: scores are of no parameter of the model, of another length than its filters, or NaN.
        """
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        for name, score in self._scores.items():
            _check_known(name, model, shapes)
            if score.isnan().any():
                raise ModelError(f"outcome: the scores of {name} hold NaN, so its filters cannot be ranked")
        found: list[Tensor] = []
        for group in groups:
            told = []
            for maker in makers(group):
                if maker.name in self._scores:
                    score = self._scores[maker.name]
                    filters = shapes[maker.name][maker.dimension]
                    if score.shape != (filters,):
                        raise ModelError(
                            f"outcome: the scores of {maker.name} are {list(score.shape)}, and it has {filters} filters"
                        )
                    told.append(score[torch.from_numpy(maker.indices)].mean(1))
            worth = torch.full((group.channels,), torch.inf, dtype=torch.float64)
            found.append(torch.stack(told).mean(0) if told else worth)
        return found


def with_decided_scores(request: Request) -> Request:
    """The request, with the scores of its outcome as its importance.

    Raises:
        BudgetError: it asks for something that does not go with an outcome, or for what the outcome does not say.
    """
    outcome, kind = request.outcome, request.budget.kind
    if not isinstance(outcome, Outcome):
        raise BudgetError(f"outcome={outcome!r} is none; give what a regularizer's finish() returns, one at a time")
    if isinstance(request.importance, Decided):
        return request
    if request.importance is not None:
        raise BudgetError("outcome= says what leaves, or what it is worth; leave importance= out, or outcome=")
    if kind == "threshold":
        raise BudgetError(f"{request.budget} asks no outcome; leave one of the two out")
    if request.heads == "both":
        raise BudgetError('outcome= with heads="both" is not possible; use heads="whole" or heads="inside"')
    if kind == "outcome" and request.branches:
        raise BudgetError("branches with outcome= is not possible; cut what the training has silenced by threshold=")
    if kind != "outcome" and outcome.scores is None:
        raise BudgetError(
            f"{request.budget} needs to know what filters are worth, and this outcome has no scores; leave the budget out "
            "to cut exactly what it says, or take importance= in its place"
        )
    return replace(request, importance=Decided(outcome.scores or {}))


def decided_channels(coupled: CoupledModel, leaves: Mapping[str, Tensor]) -> tuple[list[Mask], dict[str, str]]:
    """Which channels of every group are to leave.

    Args:
        coupled: the traced and grouped model.
        leaves: name of a weight -> int64 numbers of its filters.

    Returns:
        For each group [channels]: whether all filters that make the channel are named; and the name of a weight -> why some of its
        filters that are named stay nevertheless.

    Raises:
        ModelError: a name is of no weight, or a number of no filter.
    """
    coupling = coupled.coupling
    named = _named_filters(coupled, leaves)
    stuck = {name: mask.copy() for name, mask in named.items()}
    verdicts: list[Mask] = []
    stays: dict[str, str] = {}
    for group in coupling.groups:
        own = makers(group)
        told = [_all_named(maker, named) for maker in own]
        verdict = np.logical_and.reduce([*told, np.full(group.channels, bool(own))])
        verdicts.append(verdict)
        for maker in own:
            if maker.name in named:
                stuck[maker.name][maker.indices] = False
                staying = named[maker.name][maker.indices] & ~verdict[:, None]
                if staying.any():
                    channels = staying.any(1)
                    other = next(m.name for m, whole in zip(own, told, strict=True) if not whole[channels].all())
                    said = f"{other} makes the same channels, and is to keep some"
                    stays.setdefault(maker.name, _said(int(staying.sum()), said))
    for name, mask in stuck.items():
        if mask.any():
            stays.setdefault(
                name, _said(int(mask.sum()), coupling.frozen.get(name, "they are no filters that could leave"))
            )
    return verdicts, stays


def left_over(coupling: Coupling, verdicts: Sequence[Mask], removed: Mask, round_to: int) -> dict[str, str]:
    """Name of a weight -> why some of its filters stay that may leave, and were to.

    Args:
        coupling: the groups.
        verdicts: for each group, [channels]: which were to leave.
        removed: [labels]: which components leave.
        round_to: what widths are multiples of.
    """
    stays: dict[str, str] = {}
    for groups in coupling.classes:
        counts = [int(verdicts[group].sum()) for group in groups]
        for group, count in zip(groups, counts, strict=True):
            staying = verdicts[group] & ~removed[coupling.channels[group]]
            if not staying.any():
                continue
            reason = f"widths are to be multiples of {round_to}" if round_to > 1 else LAST_TWO
            if count > min(counts):
                reason = IN_STEP.format(other=coupling.groups[groups[counts.index(min(counts))]].name)
            for maker in makers(coupling.groups[group]):
                stays.setdefault(maker.name, _said(int(staying.sum()) * maker.indices.shape[1], reason))
    return stays


def makers(group: CoupledGroup) -> list[Member]:
    """The weights whose filters make a group's channels."""
    return [member for member in group.members if member.role == "output" and not member.name.endswith("bias")]


def _all_named(maker: Member, named: Mapping[str, Mask]) -> Mask:
    """[channels]: whether all filters of this weight that make the channel are named."""
    mask = named.get(maker.name)
    return np.zeros(len(maker.indices), dtype=bool) if mask is None else np.asarray(mask[maker.indices].all(axis=1))


def _named_filters(coupled: CoupledModel, leaves: Mapping[str, Tensor]) -> dict[str, Mask]:
    """Name of a weight, as the groups know it -> [filters]: which are named."""
    slot_of = coupled.coupling.notes.slot_of
    roles: Roles = {}
    for analysis in coupled.passes:
        roles |= roles_in(analysis.graph)
    found: dict[str, Mask] = {}
    for given, numbers in leaves.items():
        name = coupled.graph.aliases.get(given, given)
        if (name, 0) not in slot_of:
            raise ModelError(f"outcome: {given!r} is no weight of the model{hint(given, coupled.graph.aliases)}")
        filters = slot_of[name, 1 if roles.get((name, 1)) == "output" else 0].size
        wanted = torch.as_tensor(numbers).cpu()
        if wanted.is_floating_point() or wanted.dtype == torch.bool:
            raise ModelError(f"outcome: what leaves {given} are the numbers of its filters, not {wanted.dtype}")
        outside = wanted[(wanted < 0) | (wanted >= filters)]
        if len(outside):
            raise ModelError(f"outcome: {given} has {filters} filters, and no number {int(outside[0])}")
        found.setdefault(name, np.zeros(filters, dtype=bool))[wanted.long().numpy()] = True
    return found


def _check_known(name: str, model: nn.Module, known: Collection[str]) -> None:
    if name not in known:
        raise ModelError(f"outcome: {name!r} is no parameter of {type(model).__name__}{hint(name, known)}")


def _said(filters: int, reason: str) -> str:
    return f"{filters} of its filters: {reason}"
