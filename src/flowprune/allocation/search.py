"""From scores and a budget to how many channels leave each class of groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flowprune.allocation.budget import Budget
from flowprune.coupling import Coupling
from flowprune.coupling.labels import Array
from flowprune.errors import BudgetError

SMALLEST_WIDTH = 2
"""Channels every dimension keeps: a dimension of size 1 broadcasts, so a misplaced cut could hide in it."""

CLOSE_ENOUGH = 0.005
"""A result within this share below the target ends the search for a closer one."""


@dataclass(frozen=True)
class Ranking:
    """The channels of every class, the worst first.

    Attributes:
        order: for each class, [groups, channels]: the channels of each of its groups by ascending score.
        scores: for each class, [channels]: the mean score of the k-th worst channels of its groups.
        limits: for each class, how many may leave each group.
    """

    order: tuple[Array, ...]
    scores: tuple[np.ndarray, ...]
    limits: Array


def rank(coupling: Coupling, scores: Sequence[np.ndarray], largest_cut: float) -> Ranking:
    """Order the channels.

    Args:
        coupling: the groups.
        scores: for each group, [channels], higher is worth more.
        largest_cut: at most this share of a group leaves.

    Groups of one class lose their k-th worst channels together, so a balance constraint holds whatever is taken. Ties keep the
    channels' own order.
    """
    orders: list[Array] = []
    means: list[np.ndarray] = []
    for groups in coupling.classes:
        order = np.stack([np.argsort(scores[group], kind="stable") for group in groups])
        orders.append(order)
        means.append(np.stack([np.sort(scores[group], kind="stable") for group in groups]).mean(axis=0))
    return Ranking(tuple(orders), tuple(means), _limits(coupling, largest_cut))


def _limits(coupling: Coupling, largest_cut: float) -> Array:
    """How many channels each group of a class may lose: the share allowed, and every dimension keeps ``SMALLEST_WIDTH``."""
    sizes = np.array([coupling.groups[groups[0]].channels for groups in coupling.classes], dtype=np.int64)
    limits = np.minimum(sizes, np.floor(sizes * largest_cut + 1e-9).astype(np.int64))
    class_of = {group: number for number, groups in enumerate(coupling.classes) for group in groups}
    largest: dict[tuple[str, int], tuple[int, int, int]] = {}
    staying: dict[tuple[str, int], int] = {}
    for number, group in enumerate(coupling.groups):
        for member in group.members:
            dimension = (member.name, member.dimension)
            candidate = (member.indices.size, number, member.indices.shape[1])
            largest[dimension] = max(largest.get(dimension, candidate), candidate)
            staying[dimension] = staying.get(dimension, coupling.notes.slot_of[dimension].size) - member.indices.size
    for dimension, (_, number, places) in largest.items():
        lacking = SMALLEST_WIDTH - staying[dimension]
        if lacking > 0:
            own = class_of[number]
            limits[own] = min(limits[own], coupling.groups[number].channels - -(-lacking // places))
    for extent in coupling.notes.extents:
        _limit_rows(coupling, coupling.roots[extent.block.rows()], class_of, limits)
    return np.asarray(np.maximum(limits, 0), dtype=np.int64)


def _limit_rows(coupling: Coupling, rows: Array, class_of: dict[int, int], limits: Array) -> None:
    """Where whole rows of a reshaped block leave (attention heads), as many stay as of any dimension: a single row would be laid
    out in memory like none at all."""
    if len(rows) < 2 or not (rows == rows[:, :1]).all():
        return
    heads = set(rows[:, 0].tolist())
    for group, channels in enumerate(coupling.channels):
        inside = heads.intersection(channels.tolist())
        if inside:
            own = class_of[group]
            limits[own] = min(limits[own], max(0, len(heads) - SMALLEST_WIDTH))


def lost_for_count(
    budget: Budget, coupling: Coupling, ranking: Ranking, count: Callable[[Array], int], unit: int = 1
) -> Array:
    """How many channels each class loses so that ``count(lost)`` meets the budget.

    Globally the classes' channels are ranked by score; locally by their place within their class, so that every class loses
    the same share. The shortest prefix of the ranking that meets the target is found by bisection. Its last channel may be a
    large one (a stream channel of a ResNet is 4 % of everything), so the search then goes on down the ranking from just above
    the target, skipping what would overshoot.

    Args:
        budget: of kind "macs" or "params".
        coupling, ranking: the groups and their order.
        count: the exact count for a vector of losses.
        unit: what one of the user's units is in the count's (the traced batch size).

    Raises:
        BudgetError: if even the largest allowed cut stays above the target.
    """
    classes = len(ranking.limits)
    sequence = _sequence(coupling, ranking, budget.scope)
    target = budget.target(count(np.zeros(classes, dtype=np.int64)) // unit) * unit

    def lost(prefix: int) -> Array:
        return np.bincount(sequence[:prefix], minlength=classes).astype(np.int64)

    smallest = count(lost(len(sequence)))
    if smallest > target:
        raise BudgetError(
            f"{budget} cannot be met: {target // unit:,} {budget.kind} were asked for, and the smallest model the constraints "
            f"allow has {smallest // unit:,}; raise the budget or free more layers"
        )
    low, high = 0, len(sequence)
    while low < high:
        middle = (low + high) // 2
        if count(lost(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    best = lost(high)
    if high == 0:
        return best
    return _closer(sequence, high - 1, best, lost(high - 1), ranking.limits, target, count)


def _closer(
    sequence: Array, start: int, best: Array, current: Array, limits: Array, target: int, count: Callable[[Array], int]
) -> Array:
    """Walk down the ranking from just above the target; keep the result that ends closest below it."""
    best_count = count(best)
    floor = target * (1 - CLOSE_ENOUGH)
    if best_count >= floor:
        return best
    for candidate in sequence[start:].tolist():
        if current[candidate] >= limits[candidate]:
            continue
        current[candidate] += 1
        reached = count(current)
        if reached <= target:
            if reached > best_count:
                best, best_count = current.copy(), reached
                if best_count >= floor:
                    break
            current[candidate] -= 1
    return best


def _sequence(coupling: Coupling, ranking: Ranking, scope: str) -> Array:
    """The classes in the order in which they lose a channel."""
    owners = np.concatenate(
        [np.full(int(limit), number) for number, limit in enumerate(ranking.limits)] or [np.empty(0, dtype=np.int64)]
    )
    places = np.concatenate([np.arange(int(limit)) for limit in ranking.limits] or [np.empty(0, dtype=np.int64)])
    if scope == "local":
        keys = np.concatenate(
            [
                (np.arange(int(limit)) + 0.5) / len(scores)
                for scores, limit in zip(ranking.scores, ranking.limits, strict=True)
            ]
            or [np.empty(0)]
        )
    else:
        keys = np.concatenate(
            [scores[: int(limit)] for scores, limit in zip(ranking.scores, ranking.limits, strict=True)]
            or [np.empty(0)]
        )
    return owners[np.lexsort((places, owners, keys))].astype(np.int64)


def lost_for_channels(budget: Budget, ranking: Ranking) -> Array:
    """Each group keeps ``budget.share`` of its channels, rounded down, but never less than its limit allows."""
    assert budget.share is not None
    sizes = np.array([len(scores) for scores in ranking.scores], dtype=np.int64)
    kept = np.floor(sizes * budget.share + 1e-9).astype(np.int64)
    return np.asarray(np.minimum(sizes - kept, ranking.limits), dtype=np.int64)
