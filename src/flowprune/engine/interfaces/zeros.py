"""Which weights are zero for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

Keep = float | Mapping[str, float]
"""What a mask keeps: a share of all weights, above 0 and at most 1; or the share of each parameter, from 0 to 1, by name."""


class Mask(Protocol):
    """Which weights are zero for good."""

    def select(self, scores: Mapping[str, Tensor], keep: Keep | None = None) -> dict[str, Tensor]:
        """Choose the weights that stay; may be called at every step of a training.

        Args:
            scores: of every parameter, as a ``WeightScore`` gives them. A fixed pattern reads their shapes only, so the weights
                themselves will do.
            keep: never more than this is kept. A fixed pattern takes None, or what it keeps anyway.

        Returns:
            Name of the parameter -> a boolean tensor of its shape, on its device: True where the weight stays.

        Raises:
            BudgetError: it cannot keep that; the nearest it can is named.
        """
        ...
