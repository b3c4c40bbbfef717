"""Group-channel masks: of every group of a layer's filters the channels of least importance are read no more."""

from __future__ import annotations

import torch
from torch import Tensor


def group_channel_mask(weight: Tensor, groups: Tensor, share: float) -> Tensor:
    """bool ``[F, C]``: the kernels that stay; all filters of a group read the same channels.

    Park et al., Dynamic Structure Pruning, AAAI 2023, arXiv 2303.09736: the importance of channel c for group g is the sum of the
    squared weights of its kernels there, over its sum over c; in ascending order channels leave while the running sum is below
    ``share``. (Where not even one is, the authors' code takes its index -1 and prunes the whole group; here nothing of it leaves.)

    Args:
        weight: ``[F, C, *kernel]``.
        groups: int64 ``[F]``, the group of every filter.
        share: beta, from 0 to 1.
    """
    squares = weight.detach().flatten(2).square().sum(2)
    stays = torch.ones_like(squares, dtype=torch.bool)
    for group in groups.unique():
        own = groups == group
        stays[own] = kept_by_running_sum(squares[own].sum(0), share)
    return stays


def filter_mask(weight: Tensor, share: float) -> Tensor:
    """bool ``[F]``: the same rule on whole filters."""
    return kept_by_running_sum(weight.detach().flatten(1).square().sum(1), share)


def kept_by_running_sum(importance: Tensor, share: float) -> Tensor:
    """bool ``[n]``: what is left when in ascending order all leave whose running sum is below ``share`` of the whole.

    Of equals the first leave. (The authors' code removes them together, and so the whole layer where all are equal.)

    Example:
        >>> kept_by_running_sum(torch.tensor([1.0, 2.0, 7.0]), 0.4).tolist()
        [False, False, True]
    """
    total = importance.sum()
    if not total > 0:
        return torch.ones_like(importance, dtype=torch.bool)
    ascending, order = (importance / total).sort(stable=True)
    kept = torch.ones_like(importance, dtype=torch.bool)
    kept[order[ascending.cumsum(0) < share]] = False
    return kept
