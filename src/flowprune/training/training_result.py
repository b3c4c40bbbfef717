"""What came out of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowprune.engine.interfaces import Outcome
from flowprune.training.precision import Precision


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a training.

    Attributes:
        history: per epoch: epoch (from 1), task_loss, penalty (means over the epoch), train_accuracy, test_accuracy,
            test_loss (None where not evaluated; accuracies in per cent), lr (of the last step), strength (the factor on the
            penalty's coefficients in this epoch), dead_share, macs_left (after it, where the penalty is steered by one of
            them; else None), what else a regularizer says, seconds, images_per_second (training only).
        top1: test accuracy after the last epoch, in per cent: the result.
        best_top1: the highest one seen on the test images. Choosing an epoch by it would be choosing on the test.
        precision: what it was trained in: that of the settings, or what was chosen where they say "auto".
        outcomes: what the regularizers decided in the end, of those that decide.
    """

    history: list[dict[str, Any]]
    top1: float
    best_top1: float
    precision: Precision
    outcomes: tuple[Outcome, ...] = ()
