"""Which channels leave: by rank until a budget holds, or because they are dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.allocation import (
    Budget,
    Fit,
    Ranking,
    RoundedWidth,
    Rounding,
    fit_channels,
    fit_count,
    rank,
    share_of_classes,
    widths_of,
)
from flowprune.engine.allocation.fitting import Count
from flowprune.engine.constants import Folding, fold_constants
from flowprune.engine.coupling import Coupling
from flowprune.engine.measuring import is_dead, reference_scale
from flowprune.engine.measuring.filter_scales import DEAD_BELOW
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.request import LARGEST_CUT, Request
from flowprune.engine.planning.unread_channels import unread_channels
from flowprune.engine.tracing import FilterLayer
from flowprune.errors import ModelError

Scales = Mapping[FilterLayer, torch.Tensor | None]
"""Every layer's filter scales, as ``measuring.filter_scales`` returns them."""

Recount = Callable[[str, NDArray[np.bool_]], int]
"""(kind, [labels] which components leave) -> what is left."""

SharedOut = Callable[[Ranking, Rounding, Count, int, Callable[[Fit], "Selection"]], Fit]
"""(ranking, rounding, exact count, the batch size or 1, what leaves under a fit) -> the fit."""


@dataclass
class Selection:
    """What leaves, and what becomes of its constants.

    Attributes:
        removed: [labels]: which components leave (by their smallest label).
        folding: where the constants of dead channels go.
        kept_alive: group -> dead channels that stay, because their constant has nowhere to go.
        fit: how many steps every class of groups takes.
        rounded: what became of every layer's width where it was to be a multiple.
        stays: name of a weight -> why some of its filters stay that a training decided should leave.
    """

    removed: NDArray[np.bool_]
    folding: Folding
    kept_alive: dict[str, int]
    fit: Fit
    rounded: tuple[RoundedWidth, ...] = ()
    stays: dict[str, str] = field(default_factory=dict)


def select(
    coupled: CoupledModel,
    request: Request,
    model: nn.Module,
    inputs: Any,
    scales: Scales,
    recount: Recount | None = None,
    shared_out: SharedOut | None = None,
) -> Selection:
    """What leaves under a request.

    Args:
        coupled: the traced and grouped model.
        request: what is asked.
        model, inputs: as given to ``flowprune.plan``.
        scales: the scale of every filter.
        recount: what is left of a kind ("macs", "params") after such components left, where more leaves than the groups' channels.
        shared_out: who says how many steps every class takes under a count; None for one ranking over all classes.
    """
    budget = request.budget
    if budget.kind == "threshold":
        assert isinstance(budget.share, float)
        return _select_dead(coupled, dead_by_layer(scales, budget.share), model, inputs, request)
    if budget.kind == "outcome":
        return _select_decided(coupled, scales, model, inputs, request)
    assert request.importance is not None
    coupling = coupled.coupling
    scores = [
        _checked(score, group.name, group.channels)
        for score, group in zip(request.importance(model, inputs, coupling.groups), coupling.groups, strict=True)
    ]
    caps = request.largest_cut  # one for all asks for no look at the layers
    each = caps if isinstance(caps, float) else share_of_classes(caps, coupling, LARGEST_CUT, "largest_cut")
    ranking = rank(coupling, scores, each)
    if recount is not None:
        ranking = _without_idle(coupling, ranking, recount)
    rounding = Rounding(coupling, ranking.limits, request.width_multiple, narrower=request.narrower)

    def selected(fit: Fit) -> Selection:
        removed = _components(coupling, ranking, fit.lost)
        dead = dead_by_layer(scales, DEAD_BELOW)
        folding = _folding(coupled, model, inputs, dead, removed, request)
        return Selection(removed, folding, {}, fit, _rounded(coupling, rounding, fit))

    if budget.kind == "channels":
        assert budget.share is not None
        fit = fit_channels(share_of_classes(budget.share, coupling, 1.0, "channels"), ranking, rounding)
    else:
        counts = coupled.macs if budget.kind == "macs" else coupled.params
        unit = coupled.batch if budget.kind == "macs" else 1
        if shared_out is not None:
            fit = shared_out(ranking, rounding, counts.count, unit, selected)
        elif recount is None:
            fit = fit_count(budget, ranking, rounding, counts.count, unit)
        else:
            nothing = np.zeros(coupling.notes.labels, dtype=bool)
            target = budget.target(counts.count_removed(nothing) // unit)
            absolute = Budget(budget.kind, absolute=target, scope=budget.scope)

            def left(lost: NDArray[np.int64]) -> int:
                return recount(budget.kind, _components(coupling, ranking, lost))

            fit = fit_count(absolute, ranking, rounding, left, unit)
    return selected(fit)


def _without_idle(coupling: Coupling, ranking: Ranking, recount: Recount) -> Ranking:
    """The ranking without the classes whose channels leave anyway."""
    nothing = np.zeros(len(ranking.limits), dtype=np.int64)
    whole = recount("params", _components(coupling, ranking, nothing))
    steps = np.eye(len(nothing), dtype=np.int64)
    idle = [recount("params", _components(coupling, ranking, step)) == whole for step in steps]
    return replace(ranking, limits=np.where(idle, 0, ranking.limits))


def _rounded(coupling: Coupling, rounding: Rounding, fit: Fit) -> tuple[RoundedWidth, ...]:
    if rounding.multiple == 1:
        return ()
    return tuple(
        RoundedWidth(width.layer, width.after(fit.asked), width.after(fit.lost), rounding.unmet.get(width.layer, ""))
        for width in widths_of(coupling)
    )


def dead_by_layer(scales: Scales, threshold: float) -> dict[str, NDArray[np.bool_]]:
    """layer -> which of its filters are dead; layers whose scale nobody knows are not in it."""
    reference = reference_scale(scales)
    return {
        layer.name: np.asarray(is_dead(scale, reference, threshold).numpy(), dtype=bool)
        for layer, scale in scales.items()
        if scale is not None
    }


def _checked(score: torch.Tensor, group: str, channels: int) -> np.ndarray:
    values = np.asarray(score.detach().double().cpu().numpy(), dtype=np.float64)
    if values.shape != (channels,) or np.isnan(values).any():
        raise ModelError(
            f"the importance of group {group} must be {channels} numbers, none of them NaN; got shape {values.shape}"
        )
    return values


def _components(coupling: Coupling, ranking: Ranking, lost: NDArray[np.int64]) -> NDArray[np.bool_]:
    removed = np.zeros(coupling.notes.labels, dtype=bool)
    for groups, order, count in zip(coupling.classes, ranking.order, lost.tolist(), strict=True):
        for group, worst in zip(groups, order, strict=True):
            removed[coupling.channels[group][worst[:count]]] = True
    return removed


def _select_dead(
    coupled: CoupledModel,
    dead: dict[str, NDArray[np.bool_]],
    model: nn.Module,
    inputs: Any,
    request: Request,
) -> Selection:
    """A channel leaves if every filter that makes it is dead and its constant can be folded, or if nothing reads it.

    Under ``round_to`` dead filters stay up to the next allowed width: what is alive does not leave for its sake.
    """
    coupling = coupled.coupling
    verdicts = [_all_makers_dead(coupling, number, dead) for number in range(len(coupling.groups))]
    unread = unread_channels(model, coupling)
    vetoed: set[int] = set()
    while True:
        marked = [
            (verdict | idle) & ~np.isin(coupling.channels[g], list(vetoed))
            for g, (verdict, idle) in enumerate(zip(verdicts, unread, strict=True))
        ]
        removed, fit, rounded = _all_marked(coupling, marked, request.width_multiple)
        folding = _folding(coupled, model, inputs, dead, removed, request)
        if not folding.unfoldable and not folding.varying:
            break
        vetoed |= folding.unfoldable | folding.varying
    kept: Counter[str] = Counter()
    for number, verdict in enumerate(verdicts):
        staying = int((verdict & ~removed[coupling.channels[number]]).sum())
        if staying:
            kept[coupling.groups[number].name] += staying
    return Selection(removed, folding, dict(kept), fit, rounded)


def _select_decided(
    coupled: CoupledModel, scales: Scales, model: nn.Module, inputs: Any, request: Request
) -> Selection:
    """A channel leaves if a training decided so of every filter that makes it."""
    from flowprune.engine.planning.decided import decided_channels, left_over

    assert request.outcome is not None and request.outcome.leaves is not None
    verdicts, stays = decided_channels(coupled, request.outcome.leaves)
    removed, fit, rounded = _all_marked(coupled.coupling, verdicts, request.width_multiple)
    folding = _folding(coupled, model, inputs, dead_by_layer(scales, DEAD_BELOW), removed, request)
    stays = left_over(coupled.coupling, verdicts, removed, request.width_multiple) | stays
    return Selection(removed, folding, {}, fit, rounded, stays)


def _all_marked(
    coupling: Coupling, marked: Sequence[NDArray[np.bool_]], round_to: int
) -> tuple[NDArray[np.bool_], Fit, tuple[RoundedWidth, ...]]:
    """All channels that are marked ([channels] of each group) leave, as far as a class's groups have equally many and the widths
    allow."""
    ranking = rank(coupling, [np.where(mask, 0.0, 1.0) for mask in marked], 1.0)
    leaving = [
        min(int(min(marked[g].sum() // coupling.strides[g] for g in groups)), int(limit))
        for groups, limit in zip(coupling.classes, ranking.limits, strict=True)
    ]
    asked = np.array(leaving, dtype=np.int64)
    rounding = Rounding(coupling, asked, round_to)
    fit = Fit(rounding.nearest(asked), asked)
    return _components(coupling, ranking, fit.lost), fit, _rounded(coupling, rounding, fit)


def _folding(
    coupled: CoupledModel,
    model: nn.Module,
    inputs: Any,
    dead: Mapping[str, NDArray[np.bool_]],
    removed: NDArray[np.bool_],
    request: Request,
) -> Folding:
    """Where the constants of dead filters go; nothing to look for where none is dead and none leaves for another reason."""
    if not any(mask.any() for mask in dead.values()) and (request.budget.kind != "threshold" or not removed.any()):
        return Folding()
    constants = coupled.constants(model, inputs, dead)
    return fold_constants(
        constants, coupled.passes[0], coupled.coupling, removed, request.fold_tolerance, coupled.exempt.tensors
    )


def _all_makers_dead(coupling: Coupling, number: int, dead: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """[channels] of a group: whether every filter that makes the channel is dead; False where a maker cannot be judged."""
    group = coupling.groups[number]
    verdict = np.ones(group.channels, dtype=bool)
    makers = 0
    for member in group.members:
        if member.role != "output" or member.name.endswith("bias"):
            continue
        makers += 1
        mask = dead.get(member.name.rpartition(".")[0])
        verdict &= False if mask is None else mask[member.indices].all(axis=1)
    return verdict if makers else np.zeros(group.channels, dtype=bool)
