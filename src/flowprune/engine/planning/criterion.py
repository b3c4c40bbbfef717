"""A criterion that is asked once, however many cuts are tried with it; and its name."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.interfaces import Importance


class AskedOnce:
    """A criterion whose scores of a model are kept as long as the groups stay the same."""

    def __init__(self, criterion: Importance) -> None:
        self.criterion = criterion
        self._known: dict[Hashable, list[torch.Tensor]] = {}

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """See ``Importance``."""
        places = tuple(
            (group.name, group.channels, member.name, member.dimension, member.indices.tobytes())
            for group in groups
            for member in group.members
        )
        if places not in self._known:
            self._known[places] = list(self.criterion(model, inputs, groups))
        return self._known[places]


def name_of(importance: Importance | None, allocator: object = None) -> str:
    """How a plan names the criterion it was made by, and who shared the budget out."""
    if isinstance(importance, AskedOnce):
        return name_of(importance.criterion, allocator)
    name = "filter_scale" if importance is None else type(importance).__name__
    return name if allocator is None else f"{name}, {type(allocator).__name__}"
