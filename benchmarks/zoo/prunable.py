"""The share of a model's parameters that some cut could remove."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn


def prunable_share(coupling: Any, model: nn.Module) -> float:
    """Of all parameters, those that would leave if every channel left that may (those of the final groups, refusals frozen)."""
    alive = np.zeros(len(coupling.roots), dtype=bool)
    for channels in coupling.channels:
        alive[channels] = True
    staying: dict[str, float] = {}
    for slot in coupling.notes.slots:
        free = alive[coupling.roots[slot.labels]]
        staying[slot.name] = staying.get(slot.name, 1.0) * float(1 - free.mean())
    parameters = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in parameters.values())
    return sum(parameter.numel() * (1 - staying.get(name, 1.0)) for name, parameter in parameters.items()) / total
