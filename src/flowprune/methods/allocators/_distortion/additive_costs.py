"""The choice of least distortion where costs add, by dynamic programming over what is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_STATES = 1 << 14
"""How many partial choices are carried from unit to unit; with fewer than so many, the result is exact."""


def least_distortion(
    left: Sequence[NDArray[np.int64]], distortions: Sequence[NDArray[np.float64]], target: int
) -> list[int] | None:
    """One option a unit, so that ``sum left <= target`` and ``sum distortions`` is as small as can be.

    ``D_l(b) = min_a distortion_l(a) + D_{l-1}(b - left_l(a))``, kept only where it falls: a partial choice that leaves more and
    distorts more than another one is never part of the best. So it is exact for any sizes, in any order of the units, as long as no
    more than ``MOST_STATES`` partial choices are left over. Beyond that the best of each of as many equal ranges of what is
    left goes on: still never above the target, but perhaps not the best.

    Args:
        left: for each unit, [options]: what is left of it; whole numbers of any sign.
        distortions: for each unit, [options].
        target: the largest sum.

    Returns:
        The number of the option of each unit; None where even the least of all is above the target. Of equal distortions the choice
        that leaves less.

    Example:
        >>> least_distortion([np.array([2, 0]), np.array([3, 0])], [np.array([0.0, 5.0]), np.array([0.0, 1.0])], target=3)
        [0, 1]
    """
    later = np.append(np.cumsum([int(options.min()) for options in left][::-1])[::-1], 0)
    sums, totals = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for number, (options, distortion) in enumerate(zip(left, distortions, strict=True)):
        candidates = (sums[:, None] + options[None, :]).reshape(-1)
        worths = (totals[:, None] + distortion[None, :]).reshape(-1)
        fitting = np.flatnonzero(candidates <= target - later[number + 1])
        if not len(fitting):
            return None
        chosen = fitting[_front(candidates[fitting], worths[fitting])]
        if len(chosen) > MOST_STATES:
            chosen = chosen[_thinned(candidates[chosen])]
        steps.append((chosen // len(options), chosen % len(options)))
        sums, totals = candidates[chosen], worths[chosen]
    state = int(np.lexsort((sums, totals))[0])
    choice: list[int] = []
    for parents, taken in reversed(steps):
        choice.append(int(taken[state]))
        state = int(parents[state])
    return choice[::-1]


def _front(sums: NDArray[np.int64], totals: NDArray[np.float64]) -> NDArray[np.int64]:
    """The indices of what nothing else beats in both, by ascending sum."""
    order = np.lexsort((totals, sums))
    ordered = totals[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(ordered)[:-1]])
    return np.asarray(order[ordered < before], dtype=np.int64)


def _thinned(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each range of an ascending front the last, which distorts least; and the first of all, so that something always fits."""
    ranges = (sums - sums[0]) * (MOST_STATES - 1) // max(int(sums[-1] - sums[0]), 1)
    last = np.flatnonzero(np.append(ranges[1:] != ranges[:-1], True))
    return np.unique(np.append(last, 0))
