"""What a controller goes by: the share that is measured after every epoch, of dead filters or of MACs."""

from __future__ import annotations

from typing import Any

from torch import nn

from flowprune.errors import ModelError, RecipeError
from flowprune.flow.control import Control, Schedule
from flowprune.flow.dead_share import agreed, dead_share, first_images


class Steering:
    """A schedule or controller, and how its share is measured.

    Attributes:
        control: the strength and its state.
        by_macs: whether the share is of MACs, which the user measures, and not of dead filters.
    """

    def __init__(
        self, schedule: Schedule, epochs: int | None, target_dead: float | None, target_macs: float | None
    ) -> None:
        if target_dead is not None and target_macs is not None:
            raise RecipeError("give target_dead or target_macs, not both")
        self.by_macs = target_macs is not None
        self.control = Control(schedule, epochs, target_dead if target_macs is None else 1 - target_macs)
        self._example: Any = None

    def remember(self, inputs: Any) -> None:
        """Keep what the dead filters are counted with later, if they will be."""
        if self.control.target is not None and not self.by_macs:
            self._example = first_images(inputs)

    def epoch_end(self, root: nn.Module, macs: float | None) -> float | None:
        """Measure, let all processes agree, adapt the strength; ``FeatureFlow.epoch_end`` says the rest."""
        share: float | None = None
        if self.control.target is not None and self.by_macs:
            if macs is None:
                raise ModelError(
                    "target_macs needs what was measured: flow.epoch_end(macs=0.7), or train(..., macs_left=...)"
                )
            share = 1 - float(macs)
        elif self.control.target is not None:
            if self._example is None:
                raise ModelError("epoch_end() measures the model after its first forward; run it once, or pass inputs=")
            share = dead_share(root, self._example)
        if share is not None:
            share = agreed(share, next(root.parameters()).device)
        self.control.epoch_end(share)
        return share
