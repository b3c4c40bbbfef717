"""From the scores of a coupled group's members to one score per channel, comparable between layers: one ranking runs over the whole
network.

A filter of a wide layer sums more weights, a map of an early layer has more positions: raw scores differ between layers
by orders of magnitude for reasons that have nothing to do with worth. Each option divides a layer's scores by one
number of that layer; two of them subtract another one first.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup

Normalization = Literal["none", "l1", "l2", "max", "mean", "z-score", "min-max"]

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
Aggregation = Literal["mean", "sum", "max"]

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def normalized(scored: Sequence[Sequence[tuple[Hashable, torch.Tensor]]], how: str) -> list[list[torch.Tensor]]:
    """Scores on the scale of their own layer.

    A layer's channels may fall into several coupled groups (an option-A shortcut, the halves of a split); shift and
    divisor are the whole layer's all the same. What scores ``inf`` cannot be judged, stays ``inf``, and says nothing of
    its layer.

    Args:
        scored: for each group, the layer and the raw scores ``[channels]`` of each of its members.
        how: ``"none"`` leaves them; ``"l1"`` divides by the sum of the absolute values and ``"l2"`` by the Euclidean
            length (a typical channel of a layer of C then scores 1/C or 1/sqrt(C): channels of wide layers rank lower);
            ``"max"`` and ``"mean"`` divide by the largest and by the average score and do not depend on the width.
            ``"z-score"`` subtracts the average and divides by the (population) standard deviation, ``"min-max"`` maps
            the smallest to 0 and the largest to 1.

    Returns:
        For each group, float64 ``[channels]`` on the CPU for each of its members. A layer whose divisor is not positive
        (all scores zero; all equal, for the last two) is not divided.
    """
    on_cpu = [[(layer, scores.detach().to("cpu", torch.float64)) for layer, scores in members] for members in scored]
    layers: dict[Hashable, list[torch.Tensor]] = {}
    for layer, scores in itertools.chain.from_iterable(on_cpu):
        layers.setdefault(layer, []).append(scores)
    scales = {layer: _shift_and_divisor(torch.cat(scores), how) for layer, scores in layers.items()}
    return [[(scores - scales[layer][0]) / scales[layer][1] for layer, scores in members] for members in on_cpu]


def _shift_and_divisor(scores: torch.Tensor, how: str) -> tuple[float, float]:
    finite = scores[torch.isfinite(scores)]
    if how == "none" or finite.numel() == 0:
        return 0.0, 1.0
    shift = torch.zeros(())
    if how == "l1":
        divisor = finite.abs().sum()
    elif how == "l2":
        divisor = torch.linalg.vector_norm(finite)
    elif how == "max":
        divisor = finite.amax()
    elif how == "mean":
        divisor = finite.mean()
    elif how == "z-score":
        shift, divisor = finite.mean(), finite.std(correction=0)
    else:
        shift, divisor = finite.amin(), finite.amax() - finite.amin()
    return float(shift), float(divisor) if divisor > 0 else 1.0


def aggregated(member_scores: Sequence[torch.Tensor], how: str, channels: int) -> torch.Tensor:
    """One score per channel of a group from the scores of its members.

    Args:
        member_scores: one tensor ``[channels]`` for each member the criterion could judge.
        how: ``"mean"``, ``"sum"`` or ``"max"`` over the members; ``"after-addition"`` (where the members are the maps
            after the group's additions, see ``map_stages.maps_for``) is their mean.
        channels: the group's number of channels.

    Returns:
        float64 ``[channels]`` on the CPU; ``inf`` everywhere if there is no member to judge by: what cannot be judged
        is kept.
    """
    if not member_scores:
        return torch.full((channels,), torch.inf, dtype=torch.float64)
    stacked = torch.stack([scores.detach().to("cpu", torch.float64) for scores in member_scores])
    if how == "sum":
        return stacked.sum(dim=0)
    if how == "max":
        return stacked.amax(dim=0)
    return stacked.mean(dim=0)


def group_scores(
    scored: Sequence[Sequence[tuple[Hashable, torch.Tensor]]],
    groups: Sequence[CoupledGroup],
    normalize: str,
    aggregation: str,
) -> list[torch.Tensor]:
    """What a criterion returns, from the raw scores of every group's members: first normalised, then aggregated.

    Args:
        scored: for each group, the layer and the raw scores ``[channels]`` of each member that could be judged.
        groups: as many.
        normalize: see ``normalized``.
        aggregation: see ``aggregated``.

    Returns:
        One float64 tensor ``[channels]`` for each group.
    """
    members = normalized(scored, normalize)
    return [aggregated(scores, aggregation, group.channels) for scores, group in zip(members, groups, strict=True)]
