"""A sparsity that grows fast at first, while there is much to spare, and slowly in the end."""

from __future__ import annotations


def cubic_sparsity(final: float, step: int, steps: int) -> float:
    """``final (1 - (1 - step / steps)^3)``, and ``final`` from there on.

    Zhu & Gupta, To prune, or not to prune, arXiv 1710.01878, equation 1, from a dense start.

    Example:
        >>> [round(cubic_sparsity(0.8, step, 4), 3) for step in range(6)]
        [0.0, 0.463, 0.7, 0.788, 0.8, 0.8]
    """
    return final * (1 - (1 - min(step, steps) / max(steps, 1)) ** 3)
