"""The learning rate as a pure function of the step, so that a resumed training needs no state for it."""

from __future__ import annotations

import math

from flowprune.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0).

    Cosine: lr / 2 * (1 + cos(pi * t)), t the share of the steps after the warm-up that are done (Loshchilov and Hutter,
    "SGDR", 2017, equation 5 without restarts).
    """
    total = max(settings.epochs * steps_per_epoch, 1)
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total)
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    if settings.schedule == "cosine":
        return settings.lr / 2 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if settings.schedule == "step":
        return settings.lr * settings.lr_decay ** sum(step >= milestone * total for milestone in settings.milestones)
    return settings.lr
