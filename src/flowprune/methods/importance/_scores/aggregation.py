"""From the scores of a coupled group's members to one score per channel."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch

from flowprune.methods.importance._scores.layer_scales import normalized

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup

Aggregation = Literal["mean", "sum", "max"]

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


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
        normalize: see ``layer_scales.normalized``.
        aggregation: see ``aggregated``.

    Returns:
        One float64 tensor ``[channels]`` for each group.
    """
    members = normalized(scored, normalize)
    return [aggregated(scores, aggregation, group.channels) for scores, group in zip(members, groups, strict=True)]
