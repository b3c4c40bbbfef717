"""Which layers read which channels, for decisions that change the readers of what leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.errors import ModelError
from flowprune.methods.recovery._calibration.consumers import Consumer


@dataclass(frozen=True)
class Uncut:
    """A cut by which nothing has left."""

    removed: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)


def places_read(groups: Any, layers: Mapping[str, Consumer]) -> dict[str, dict[int, Tensor]]:
    """Of each layer, which groups' channels it reads: number of the group -> ``[channels, k]``, where they are among its inputs.

    A group is told only where all that reads it are such layers, of one group of filters each.

    Raises:
        ModelError: a layer reads the channels of a group in two places.
    """
    by_weight = {layer.weight_name: layer for layer in layers.values()}
    reading: dict[str, dict[int, Tensor]] = {}
    for number, group in enumerate(groups):
        readers = [member for member in group.members if member.role == "input"]
        alone = all(
            member.dimension == 1
            and member.name in by_weight
            and getattr(by_weight[member.name].small, "groups", 1) == 1
            for member in readers
        )
        for member in readers if alone else ():
            places = reading.setdefault(by_weight[member.name].name, {})
            if number in places:
                raise ModelError(f"{member.name} reads the channels of {group.name} in two places")
            places[number] = torch.from_numpy(member.indices)
    return reading


def filters_of(group: CoupledGroup, model: nn.Module) -> Iterator[tuple[str, int, Tensor]]:
    """The weights that make a group's channels: name, how many filters, and ``[channels, k]``, which of them a channel is."""
    tensors = model.state_dict()
    for member in group.members:
        weight = tensors[member.name]
        if member.role == "output" and member.dimension == 0 and weight.dim() >= 2:
            yield member.name, len(weight), torch.from_numpy(member.indices)
