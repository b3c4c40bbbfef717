"""What all criteria share that judge a channel by the weights that make it; most give every filter of a layer a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.tracing import tensors_of
from flowprune.errors import checked_name
from flowprune.methods.importance._scores.group_scores import (
    AGGREGATIONS,
    NORMALIZATIONS,
    Aggregation,
    Normalization,
    group_scores,
)
from flowprune.methods.importance._weights.filters import finite_weights, rows_of

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, Member


class WeightCriterion(ABC):
    """A number for every channel in every weight that makes it; ``member_scores`` says which.

    Groups and their members are walked here, for all such criteria. Most of them need no more than a number for every filter of
    a layer: see ``FilterCriterion``.

    Args:
        normalize: what each layer's scores are divided by before they meet other layers'; unless given, what is usual for the
            criterion (``usual``).
        aggregation: how the weights coupled into one channel (both ends of a skip connection) share one score; unless given,
            what is usual for the criterion (``usual_aggregation``).

    Raises (when called):
        ModelError: a weight is NaN or infinite.
    """

    needs_data: ClassVar[bool] = False
    usual: ClassVar[Normalization] = "mean"
    usual_aggregation: ClassVar[Aggregation] = "mean"
    role: ClassVar[str] = "output"
    """Of the members that are judged: the weights that make channels, unless a criterion says otherwise."""

    def __init__(self, *, normalize: Normalization | None = None, aggregation: Aggregation | None = None) -> None:
        self.normalize = checked_name("normalization", self.usual if normalize is None else normalize, NORMALIZATIONS)
        chosen = self.usual_aggregation if aggregation is None else aggregation
        self.aggregation = checked_name("aggregation", chosen, AGGREGATIONS)

    def judged(self, model: nn.Module) -> Collection[str]:
        """Names of the tensors it judges by: those with two dimensions at least, so that biases are left out."""
        return {name for name, tensor in tensors_of(model).items() if tensor.ndim >= 2}

    @abstractmethod
    def member_scores(self, model: nn.Module, inputs: Any, members: Sequence[Member]) -> Sequence[torch.Tensor | None]:
        """Raw scores ``[channels]`` of each member, in order; None for one that cannot be judged.

        Args:
            model: the dense model.
            inputs: the example inputs the groups were traced with.
            members: all that are judged, of all groups. A tensor comes once for each of its members.
        """

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group without a member it can judge."""
        names = self.judged(model)
        chosen = [[one for one in group.members if one.role == self.role and one.name in names] for group in groups]
        found = iter(self.member_scores(model, inputs, [member for members in chosen for member in members]))
        pairs = [[(member.name, next(found)) for member in members] for members in chosen]
        scored = [[(name, scores) for name, scores in members if scores is not None] for members in pairs]
        return group_scores(scored, groups, self.normalize, self.aggregation)


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
