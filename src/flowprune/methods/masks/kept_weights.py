"""How many weights a mask is asked to keep, and how many it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from flowprune.engine.interfaces import Keep
from flowprune.errors import BudgetError, ModelError, UnknownNameError


def density(masks: Mapping[str, torch.Tensor]) -> float:
    """The share of all weights that stay, in [0, 1]; a weight that no mask names is not counted."""
    total = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / max(total, 1)


def whole_number(share: float, weights: int) -> int:
    """The largest number of ``weights`` that is no more than ``share`` of them; shares that were computed as k / n give k again."""
    return int(share * weights + 1e-6)


def checked_keep(keep: Keep, parameters: Iterable[str]) -> Keep:
    """The shares, as floats; a parameter that a mapping does not name is kept whole.

    Raises:
        BudgetError: a share is out of its range.
        UnknownNameError: a mapping names no such parameter.
    """
    if isinstance(keep, Mapping):
        known = tuple(parameters)
        for name, share in keep.items():
            if name not in known:
                raise UnknownNameError("parameter", name, known)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise BudgetError(f"keep={{{name!r}: {share!r}}} is not a share: use a number from 0 to 1")
        return {name: float(keep.get(name, 1.0)) for name in known}
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise BudgetError(f"weights={keep!r} is not a budget: a share is a number above 0 and at most 1")
    return float(keep)


def check_scores(scores: Mapping[str, torch.Tensor]) -> None:
    """Raise a ``ModelError`` where there are no scores, or naming the first parameter whose scores hold NaN."""
    if not scores:
        raise ModelError("there are no weights to mask; give the scores of at least one parameter")
    for name, score in scores.items():
        if score.isnan().any():
            raise ModelError(f"the scores of {name} hold NaN, so its weights cannot be ranked")
