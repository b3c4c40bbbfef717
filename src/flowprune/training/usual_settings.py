"""The usual batch and learning rate of a training that goes on from a trained network."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from flowprune.training.settings import TrainingSettings

LARGEST_BATCH, FEWEST_STEPS = 128, 30
"""The usual batch: as large as leaves so many steps an epoch, for batch norms and the optimizer need them to settle."""
LR = 0.01
"""The usual learning rate of a batch of 128; of smaller ones it is smaller by the same factor."""


def usual(epochs: int) -> dict[str, Any]:
    """The settings where nothing else is chosen, before the training images are counted (``fitted``)."""
    return {"epochs": epochs, "lr": LR, "batch_size": LARGEST_BATCH, "warmup_epochs": min(1.0, epochs / 10)}


def fitted(settings: TrainingSettings, images: int, chosen: Container[str]) -> TrainingSettings:
    """The settings with what nobody has chosen as it is usual for so many training images.

    Args:
        settings: with the usual values of a batch of 128 where nothing was chosen.
        images: training images.
        chosen: names of the settings that somebody has chosen.
    """
    size = settings.batch_size if "batch_size" in chosen else _usual_batch(images)
    rate = settings.lr if "lr" in chosen else LR * min(1.0, size / LARGEST_BATCH)
    return settings.model_copy(update={"batch_size": size, "lr": rate})


def _usual_batch(images: int) -> int:
    """The largest power of two up to 128 that leaves thirty steps an epoch; at least 8."""
    size = LARGEST_BATCH
    while size > 8 and images // size < FEWEST_STEPS:
        size //= 2
    return size
