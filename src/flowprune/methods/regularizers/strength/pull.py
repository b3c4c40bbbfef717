"""Strength as a way: how far a constant pressure moves a scale over a whole training, against weight decay and nothing else.

With SGD of momentum m and weight decay w a pressure p moves a scale, step by step by lr_t / (1 - m) times the force, by

    pull = p (1 - exp(-w S)) / w,   S = sum over all steps of lr_t / (1 - m),   p S where w is 0

(Nesterov's correction changes nothing of it). So one pull means the same over short trainings and long ones, which no coefficient
does. Adam divides by the size of what it has seen, so that a constant pressure has no way of its own there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowprune.engine.interfaces import Training
from flowprune.errors import ModelError, RecipeError
from flowprune.methods.regularizers.strength.step_hooks import group_of


def reach(group: dict[str, float], optimizer: torch.optim.Optimizer, what: str) -> float:
    """By how much a force of 1 that lasts moves a weight at every step, as a share of the learning rate: 1 / (1 - m).

    Raises:
        RecipeError: the optimizer is not SGD; ``what`` is what was asked for, in words.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        raise RecipeError(
            f'{what} is defined for SGD, and this is {type(optimizer).__name__}; give a share like "5%" or a coefficient'
        )
    return (1 - float(group.get("dampening", 0.0))) / (1 - float(group.get("momentum", 0.0)))


def way(training: Training, scale: Tensor | None) -> float:
    """S: the sum over all steps of lr_t / (1 - m), in the group of parameters that holds the scale.

    Raises:
        RecipeError: the optimizer is not SGD.
        ModelError: the training has no steps, or no learning rate.
    """
    group = group_of(training.optimizer, scale)
    share = reach(group, training.optimizer, "a pull")
    if training.rates is None:
        total = training.total * float(group.get("initial_lr", group["lr"]))
    else:
        total = sum(training.rates(step) for step in range(training.total))
    if not total > 0:
        raise ModelError("a pull needs a training with steps and a learning rate above 0")
    return total * share


def pressure_for(pull: float, training: Training, scale: Tensor | None) -> float:
    """p: the constant pressure that moves the scale so far.

    Raises:
        RecipeError, ModelError: as ``way``.
    """
    length = way(training, scale)
    decay = float(group_of(training.optimizer, scale).get("weight_decay", 0.0))
    return pull / length if decay * length < 1e-9 else pull * decay / -math.expm1(-decay * length)
