"""Which filters stay whole, which become 1x1 and which leave: the three-way split of Hessian-aware pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError


class Split(NamedTuple):
    """The filters of a layer, by number, ascending."""

    full: list[int]
    implants: list[int]
    gone: list[int]


def three_way_split(
    scores: Mapping[str, Tensor], ratio: float, *, implants: float = 0.1, cap: float = 0.95
) -> dict[str, Split]:
    """One ranking over all layers: of the filters ``(1 - implants) ratio`` leave, the next ``implants ratio`` become 1x1.

    Yu et al., Hessian-Aware Pruning and Optimal Neural Implant (HAP), WACV 2022, arXiv 2101.08940; the scores are those of
    ``importance.Hessian``. As in the authors' code, a filter stays whole where its score is above the threshold, so that all equals
    of it are below. Of every layer at least ``1 - cap``, and one, stay whole, its best. (Theirs keeps number 0 where at most one
    would stay, and compares the cap with what is kept instead of what is lost.)

    Args:
        scores: layer -> ``[filters]``.
        ratio: of all filters, what does not stay whole.
        implants: of these, what becomes 1x1.
        cap: the largest share of a layer's filters that does not stay whole.

    Raises:
        FlowpruneError: a share is none, or a score is NaN.

    Example:
        >>> three_way_split({"conv": torch.arange(10.0)}, 0.5, implants=0.4)["conv"]
        Split(full=[6, 7, 8, 9], implants=[4, 5], gone=[0, 1, 2, 3])
    """
    for name, share in (("ratio", ratio), ("implants", implants), ("cap", cap)):
        if not 0 <= share <= 1:
            raise FlowpruneError(f"{name}={share!r} is no share; use a number from 0 to 1")
    ranked = torch.cat([score.detach().double().flatten().cpu() for score in scores.values()]).sort().values
    if not len(ranked) or ranked.isnan().any():
        raise FlowpruneError("there are no scores to split by, or one is NaN")
    last = len(ranked) - 1
    below = ranked[min(int(ratio * len(ranked)), last)]
    gone_below = ranked[min(int((1 - implants) * ratio * len(ranked)), last)]
    found = {}
    for name, score in scores.items():
        values = score.detach().double().cpu()
        full = values > below if ratio > 0 else torch.ones_like(values, dtype=torch.bool)
        least = max(1, math.ceil((1 - cap) * len(values) - 1e-9))
        full[values.argsort(descending=True, stable=True)[:least]] = True
        implanted = ~full & (values > gone_below)
        found[name] = Split(*(mask.nonzero().flatten().tolist() for mask in (full, implanted, ~full & ~implanted)))
    return found
