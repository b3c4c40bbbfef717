"""Connected components over label pairs: what must leave together."""

from __future__ import annotations

import numpy as np

from flowprune.coupling.labels import Array


def components(count: int, left: Array, right: Array) -> Array:
    """The smallest label of each label's component.

    Args:
        count: labels are 0 .. count - 1.
        left, right: [pairs]: labels that are one channel.

    Every round hooks the roots of both ends of each pair onto the smaller one, then shortens all paths; the number of rounds
    grows with the logarithm of the longest chain, and each is a few numpy calls whatever the number of channels.
    """
    root = np.arange(count, dtype=np.int64)
    while len(left):
        a, b = root[left], root[right]
        differ = a != b
        if not differ.any():
            break
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        low = np.minimum(a, b)
        np.minimum.at(root, a, low)
        np.minimum.at(root, b, low)
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root = shorter
    return root
