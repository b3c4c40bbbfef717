"""The optimizer of a training, and which parameters weight decay acts on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from flowprune.training.optimizer_choice import arguments, checked
from flowprune.training.settings import TrainingSettings


def optimizer_of(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name, on all parameters of ``model`` that take a gradient.

    Raises:
        FlowpruneError: no such optimizer, or it does not take these options.
    """
    given = arguments(
        settings.optimizer,
        settings.optimizer_options,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    return checked(settings.optimizer, given, parameter_groups(model, settings))


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[nn.Parameter] | list[dict[str, Any]]:
    """All parameters; with ``weight_decay_on: weights`` two groups, the second without weight decay.

    That one has the vectors and numbers (biases, scales and shifts of norms), and what the model's own ``no_weight_decay()``
    names, as timm's models do.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if settings.weight_decay_on == "all":
        return list(named.values())
    spared_by_model: Any = getattr(model, "no_weight_decay", set)
    spared = set(spared_by_model())
    undecayed = {name for name, parameter in named.items() if parameter.ndim < 2 or name in spared}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in named.items() if name not in undecayed]},
        {"params": [parameter for name, parameter in named.items() if name in undecayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
