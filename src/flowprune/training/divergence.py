"""A training that runs away, noticed within its first steps rather than at its end."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import FlowpruneWarning, ModelError

STEPS = 20
"""How many steps' losses are looked at together."""


class DivergenceWatch(Regularizer):
    """Adds nothing to a loss; looks at it every twenty steps, and says once if it is worse than guessing and than at the start.

    Args:
        before: the loss before the training, in nats.
        classes: how many there are; who guesses has a loss of their logarithm.

    Raises:
        ModelError: (while training) the loss is no number any more.
    """

    def __init__(self, before: float, classes: int) -> None:
        self.before, self.bad = before, max(1.2 * math.log(max(2, classes)), 2 * before)
        self._seen: list[Tensor] = []
        self._said = False

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """Zero."""
        if task_loss is None:
            return torch.zeros(())
        self._seen.append(task_loss.detach())
        if len(self._seen) == STEPS:
            self._look(float(torch.stack(self._seen).mean()))
            self._seen.clear()
        return task_loss.new_zeros(())

    def _look(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise ModelError("the training diverges: the loss is no number any more; lower the learning rate (--lr)")
        if loss > self.bad and not self._said:
            self._said = True
            warnings.warn(
                f"the training diverges: over the last {STEPS} steps the loss was {loss:.3g}, before the training "
                f"{self.before:.3g}; stop it and lower the learning rate (--lr)",
                FlowpruneWarning,
                stacklevel=2,
            )
