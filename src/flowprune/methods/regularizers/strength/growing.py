"""A strength that grows with the steps of the optimizer, in stairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowprune.errors import RecipeError


@dataclass(frozen=True)
class Growth:
    """0 at the first step, higher by ``delta`` after every so many steps, until ``limit`` is reached; a function of the step alone.

    Example::

        Growth(delta=0.01, every=10, limit=0.05).at(27)      # 0.02

    Args:
        delta: the height of a stair.
        every: how many steps of the optimizer it is long.
        limit: where it ends: at the first stair that is at least so high.

    Raises:
        RecipeError: for a number that is not above 0.
    """

    delta: float
    every: int
    limit: float

    def __post_init__(self) -> None:
        for name in ("delta", "every", "limit"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"a strength that grows needs {name} above 0, not {getattr(self, name)!r}")

    @property
    def steps(self) -> int:
        """The step at which the last stair is reached."""
        return math.ceil(self.limit / self.delta - 1e-9) * self.every  # 0.3 / 0.1 is not quite 3

    def at(self, step: int) -> float:
        """The strength at a step, from 0."""
        return self.delta * (min(step, self.steps) // self.every)
