"""The ways of a stream's channels through a network: which channels of which points are one channel, that leaves as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.tracing import first_tensor
from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory
from flowprune.methods.regularizers.strength.coupled_channels import coupled_channels


@dataclass(frozen=True)
class Ways:
    """Every channel of every point belongs to one way; what no cut can take is a way of its own at each point.

    Attributes:
        labels: by point, int64 ``[C]``: the number of the way of each channel.
        costs: float64 ``[ways]``: the MACs of one image that leave with it, 0 where it cannot leave.
    """

    labels: tuple[Tensor, ...]
    costs: Tensor

    @property
    def weights(self) -> Tensor:
        """float64 ``[ways]``: the costs, divided by their mean over the points' ways that can leave."""
        own = self.costs[torch.cat(self.labels).unique()]
        return self.costs / own[own > 0].mean() if own.any() else self.costs


def ways_of(trajectory: Trajectory, root: nn.Module, inputs: Any) -> Ways:
    """Find the ways by the engine's coupled groups: channel c of a stage may be channel c + k of the next.

    Raises:
        ModelError: nothing is known of a point, or no channel of the model can leave.
        TraceError: the forward cannot be recorded.
    """
    with torch.autocast(first_tensor(inputs).device.type, enabled=False):
        classes, _ = coupled_channels(root, inputs, "the flow")
    known: dict[str, Tensor] = {}
    costs: list[int] = []
    for one in classes:
        numbers = torch.arange(len(costs), len(costs) + one.channels)
        costs += [one.macs] * one.channels
        for place in one.places:
            if place.dimension == 0:
                labels = known.setdefault(place.name, torch.full((place.parameter.shape[0],), -1))
                labels[place.rows] = numbers.unsqueeze(1).expand(place.rows.shape)
    found = []
    for point, makers, channels in zip(trajectory.points, trajectory.makers, trajectory.channels, strict=True):
        labels = next((known[maker] for maker in makers if maker in known), torch.full((channels,), -1))
        if len(labels) != channels or channels == 0:
            raise ModelError(
                f"nothing is known of the channels of {point.name!r}, so that they cannot be followed; name other points, or "
                'leave norm="path" and weights="macs" out'
            )
        labels = labels.clone()
        alone = labels < 0
        labels[alone] = torch.arange(len(costs), len(costs) + int(alone.sum()))
        costs += [0] * int(alone.sum())
        found.append(labels)
    return Ways(tuple(found), torch.tensor(costs, dtype=torch.float64))
