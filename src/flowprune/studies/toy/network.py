"""The toy experiment's network: three wide hidden layers, far more than the points need."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from flowprune.models.initialisation import initialise
from flowprune.studies.toy.plane_points import Points

HIDDEN_LAYERS = 3
_BATCH, _RATE = 64, 2e-3
STEPS = 250
"""Enough for all three data sets; the spiral's arms come apart after some 150."""


def network(classes: int, width: int, seed: int) -> nn.Sequential:
    """2 - width - width - width - classes, with ReLU."""
    layers: list[nn.Module] = []
    inputs = 2
    for _ in range(HIDDEN_LAYERS):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    model = nn.Sequential(*layers, nn.Linear(inputs, classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initialise(model)
    return model


def trained(data: Points, width: int, seed: int, steps: int = STEPS) -> nn.Sequential:
    """A network that has learned ``data``, in evaluation mode: Adam on batches of 64, its rate falling to 0 over the last third."""
    model = network(data.classes, width, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * min(1.0, 3 * (1 - step / steps))
        chosen = torch.randint(0, len(data.y), (_BATCH,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(data.x[chosen]), data.y[chosen]).backward()
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, data: Points) -> float:
    """Per cent of the points that the model puts into their class."""
    with torch.no_grad():
        return 100 * float((model(data.x).argmax(1) == data.y).float().mean())
