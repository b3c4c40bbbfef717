"""Which of a group's feature maps a data criterion looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, FeatureMap

MapAggregation = Literal["mean", "sum", "max", "after-addition"]
"""How the maps coupled into one channel share one score; "after-addition" looks at nothing but the sums that the
group's residual additions make, and takes their mean."""

MAP_AGGREGATIONS: tuple[MapAggregation, ...] = get_args(MapAggregation)

Stage = Literal["convolution", "normalized", "activated", "added"]

STAGES: tuple[str, ...] = get_args(Stage)
"""In the order a feature map goes through them."""


def maps_for(group: CoupledGroup, stage: str, aggregation: str) -> list[FeatureMap]:
    """The group's maps at ``stage``; under ``"after-addition"`` only its maps after a residual addition, where it has
    any."""
    if aggregation == "after-addition":
        added = [feature for feature in maps_at(group, "added") if feature.stage == "added"]
        if added:
            return added
    return maps_at(group, stage)


def maps_at(group: CoupledGroup, stage: str) -> list[FeatureMap]:
    """One feature map for each unit (and each of its calls) of the group, at ``stage`` or as near to it as the unit
    gets.

    Nearest is the first later stage the unit reaches, else the last earlier one: the end of a residual branch has no
    activation of its own, so ``"activated"`` sees it after the addition and the activation that follows, while a linear
    layer in front of nothing is seen as it returns. A tensor two units share (both end in one addition) is looked at
    once.
    """
    units: dict[str, list[FeatureMap]] = {}
    for candidate in group.maps:
        units.setdefault(candidate.unit, []).append(candidate)
    wanted = STAGES.index(stage)
    order = [*STAGES[wanted:], *reversed(STAGES[:wanted])]
    chosen: list[FeatureMap] = []
    seen: set[tuple[tuple[int, int], int, bytes]] = set()
    for candidates in units.values():
        nearest = min((candidate.stage for candidate in candidates), key=order.index)
        for candidate in candidates:
            key = (candidate.position, candidate.dimension, candidate.indices.tobytes())
            if candidate.stage == nearest and key not in seen:
                seen.add(key)
                chosen.append(candidate)
    return chosen
