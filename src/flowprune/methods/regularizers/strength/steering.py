"""What a controller goes by: the share that is measured after every epoch, of dead filters or of MACs."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from flowprune.errors import FlowpruneWarning, ModelError, RecipeError
from flowprune.methods.regularizers.strength.control import LARGEST, Control, Schedule
from flowprune.methods.regularizers.strength.dead_share import (
    agreed,
    dead_and_small_share,
    first_images,
    is_first_process,
)


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
        small: float | None = None
        if self.control.target is not None and self.by_macs:
            if macs is None:
                raise ModelError(
                    "target_macs needs what was measured: flow.epoch_end(macs=0.7), or train(..., macs_left=...)"
                )
            share = 1 - float(macs)
        elif self.control.target is not None:
            if self._example is None:
                raise ModelError("epoch_end() measures the model after its first forward; run it once, or pass inputs=")
            share, small = dead_and_small_share(root, self._example)
        if share is not None:
            share = agreed(share, next(root.parameters()).device)
        if small is not None:
            small = agreed(small, next(root.parameters()).device)
        before = self.control.strength
        self.control.epoch_end(share, small)
        if share is not None and before < self.control.strength == LARGEST and is_first_process():
            warnings.warn(self._at_the_bound(share), FlowpruneWarning, stacklevel=3)
        return share

    def _at_the_bound(self, share: float) -> str:
        target = self.control.target or 0.0
        if self.by_macs:
            reached = f"a cut would leave {1 - share:.1%} of the MACs, not {1 - target:.1%}"
        else:
            reached = f"{share:.1%} of the filters are dead, not {target:.1%}"
        return (
            f"the strength of the feature flow stands at its bound, {LARGEST:g} times the one given: after {self.control.epoch} of "
            f"{self.control.epochs} epochs {reached}; if that stays so, ask for less and cut the rest by a budget, or train longer "
            "or with more weight decay"
        )
