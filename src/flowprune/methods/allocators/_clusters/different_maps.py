"""How many of a layer's channels differ: clusters of their average feature maps, and those in none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.float64]
"""[channels, channels]: of each two channels' maps."""


def map_distances(maps: NDArray[np.float64]) -> Distances:
    """``1 - cos`` of each two rows of ``[channels, places]``, between 0 and 2; a map of zeros is at 1 from all others.

    Example:
        >>> map_distances(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    from sklearn.metrics.pairwise import cosine_distances  # of the extra flowprune[run]

    found: Distances = cosine_distances(maps)
    return found


def different_maps(distances: Distances, eps: float, least: int = 5) -> int:
    """Clusters of DBSCAN plus the points that are in none (Chang et al., arXiv 2101.06407).

    It never grows with ``eps``: a point that gets enough neighbours was alone or at the edge of a cluster, and joins or founds one
    with those; clusters only merge.

    Args:
        distances: of each two channels.
        eps: up to which distance two are neighbours.
        least: how many neighbours, itself among them, make a point the core of a cluster; a layer of fewer channels keeps all.
    """
    from sklearn.cluster import DBSCAN  # of the extra flowprune[run]

    labels = DBSCAN(eps=eps, min_samples=least, metric="precomputed").fit(distances).labels_
    return int(len(set(labels.tolist()) - {-1}) + (labels == -1).sum())
