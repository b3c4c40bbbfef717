"""The optimizer of a training."""

from __future__ import annotations

import torch
from torch import nn

from flowprune.training.settings import TrainingSettings


def sgd(model: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD on all parameters of ``model`` that take a gradient, as the settings say."""
    return torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
