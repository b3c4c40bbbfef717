"""When a difference counts: one rule for all studies, so that nobody can choose one after the fact."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SEEDS = 3
"""Fresh ones: the seed that a choice was made with is not among them."""
DEVIATIONS, POINTS = 1.7, 0.3

NOT_RUN = "not run yet"


def verdict(differences: Sequence[float]) -> str:
    """ "pays", "loses" or "undecided", by paired differences in points, one a seed; "not run yet" with fewer than three.

    The mean must lie beyond 1.7 times the sample standard deviation of the differences and beyond 0.3 points.
    """
    if len(differences) < SEEDS:
        return NOT_RUN
    mean = statistics.mean(differences)
    if abs(mean) > DEVIATIONS * statistics.stdev(differences) and abs(mean) > POINTS:
        return "pays" if mean > 0 else "loses"
    return "undecided"
