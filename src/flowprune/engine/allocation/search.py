"""From scores to the order in which the channels of every class of groups would leave, and how many may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.coupling import Coupling
from flowprune.engine.coupling.labels import Array

SMALLEST_WIDTH = 2
"""Channels every dimension keeps: a dimension of size 1 broadcasts, so a misplaced cut could hide in it."""


@dataclass(frozen=True)
class Ranking:
    """The channels of every class, the worst first.

    Attributes:
        order: for each class and each of its groups, [steps, stride]: the group's channels by ascending score, ``stride`` a step.
        scores: for each class, [steps]: the mean score of the channels that leave in the k-th step.
        limits: for each class, how many steps it may take.
    """

    order: tuple[tuple[Array, ...], ...]
    scores: tuple[np.ndarray, ...]
    limits: Array


def rank(coupling: Coupling, scores: Sequence[np.ndarray], largest_cut: float | NDArray[np.float64]) -> Ranking:
    """Order the channels.

    Args:
        coupling: the groups.
        scores: for each group, [channels], higher is worth more.
        largest_cut: at most this share of a group leaves; one for all, or [classes].

    Groups of one class lose their k-th worst channels together (their k-th ``stride`` worst ones), so a balance constraint holds
    whatever is taken. Ties keep the channels' own order.
    """
    orders: list[tuple[Array, ...]] = []
    means: list[np.ndarray] = []
    for groups in coupling.classes:
        order = tuple(np.argsort(scores[group], kind="stable").reshape(-1, coupling.strides[group]) for group in groups)
        orders.append(order)
        means.append(
            np.stack([scores[group][worst].mean(axis=1) for group, worst in zip(groups, order, strict=True)]).mean(
                axis=0
            )
        )
    return Ranking(tuple(orders), tuple(means), _limits(coupling, largest_cut))


def _limits(coupling: Coupling, largest_cut: float | NDArray[np.float64]) -> Array:
    """How many steps a class may take: the share allowed, and every dimension keeps ``SMALLEST_WIDTH``."""
    strides = coupling.strides
    sizes = np.array(
        [coupling.groups[groups[0]].channels // strides[groups[0]] for groups in coupling.classes], dtype=np.int64
    )
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
            limits[own] = min(
                limits[own], (coupling.groups[number].channels - -(-lacking // places)) // strides[number]
            )
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
            limits[own] = min(limits[own], max(0, len(heads) - SMALLEST_WIDTH) // coupling.strides[group])
