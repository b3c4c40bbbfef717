"""What a phase is given to work with, and what it hands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowprune.engine.allocation import Plan
from flowprune.engine.interfaces import Outcome
from flowprune.errors import RecipeError
from flowprune.studies.sections import PruningSection
from flowprune.training import Data

OUTCOME = "outcome"
"""What a phase is given in place of a name or of numbers, where the training before it decided."""


@dataclass(frozen=True)
class Work:
    """What a phase is given besides the model that the phase before it left.

    Attributes:
        data: the recipe's images.
        device: where the model lies.
        seed: of the run; draws the images that criteria look at.
        folder: where the phase keeps its state, from which it goes on after an interruption. The folders of trainings between the
            cuts of one phase are named like it, with ``-step1`` and so on behind.
        title: of progress bars.
        progress: show them.
        outcome: what the training before this phase decided, of a model of the same shape; None where nothing was.
        next_cut: how a cut that follows is made, for what is steered by the MACs that it would leave.
        whole: gives the network as it was before the model was last cut, and the plan of that cut, for recoveries that learn from
            it; None where it was not cut.
    """

    data: Data
    device: torch.device
    seed: int
    folder: Path
    title: str
    progress: bool
    outcome: Outcome | None = None
    next_cut: PruningSection | None = None
    whole: Callable[[nn.Module], tuple[nn.Module, Plan]] | None = None

    def example(self) -> Tensor:
        """One image, on the device."""
        return self.data.example_input().to(self.device)

    def batches(self, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
        """So many batches of training images with their targets, always the same."""
        return list(self.data.batches("train", batch_size=size, count=count, seed=self.seed))

    def decided(self, kind: str, what: str) -> Any:
        """What the training before this phase decided of one kind.

        Raises:
            RecipeError: nothing of it.
        """
        found = None if self.outcome is None else getattr(self.outcome, kind)
        if found is None:
            raise RecipeError(
                f"{self.title}: no training before this phase decided {what}; give it a regularizer that does"
            )
        return found


class Done(NamedTuple):
    """What a phase leaves."""

    model: nn.Module
    found: dict[str, Any]
    """The beginning of its record: ``top1``, and what only this kind of phase has to say; ``extra`` goes into the row."""
    outcome: Outcome | None = None
    """What was decided here, for the phases after this one."""
