"""What all criteria share that give every filter of a layer a number, whatever it is coupled with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flowprune.methods.importance._weights.filters import finite_weights, rows_of
from flowprune.methods.importance._weights.weight_criterion import WeightCriterion

if TYPE_CHECKING:
    from flowprune.engine.coupling import Member


class FilterCriterion(WeightCriterion):
    """A number of each filter among those of its layer; ``per_filter`` says which. Arguments as for every ``WeightCriterion``."""

    @abstractmethod
    def per_filter(self, rows: torch.Tensor) -> torch.Tensor:
        """``[filters]`` from a layer's weights ``[filters, weights per filter]``."""

    def together(self, scores: torch.Tensor) -> torch.Tensor:
        """``[channels]`` from the scores ``[channels, k]`` of the k filters that a channel takes; their sum."""
        return scores.sum(dim=1)

    def member_scores(self, model: nn.Module, inputs: Any, members: Sequence[Member]) -> list[torch.Tensor]:
        """Raw scores ``[channels]`` of each member, in order."""
        weights = finite_weights(model, members)
        known: dict[tuple[str, int], torch.Tensor] = {}  # a grouped convolution is in as many groups as it has
        found = []
        for member in members:
            place = member.name, member.dimension
            if place not in known:
                known[place] = self.per_filter(rows_of(weights[member.name], member.dimension))
            indices = torch.as_tensor(member.indices, dtype=torch.int64, device=known[place].device)
            scores = known[place][indices]
            found.append(scores.squeeze(1) if scores.shape[1] == 1 else self.together(scores))
        return found
