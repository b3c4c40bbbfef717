"""Effective filter scale: how much of a filter's output gets past its batch norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flowprune.engine.measuring.filter_scales import filter_scales
from flowprune.methods.importance._scores.group_scores import Aggregation, Normalization
from flowprune.methods.importance._weights.weight_criterion import WeightCriterion
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import Member


@REGISTRY.register("filter_scale")
class FilterScale(WeightCriterion):
    """``s_c = |gamma_c| * sqrt(var_c / (var_c + eps))`` of the batch norm behind the filter: the deviation of what
    leaves it.

    This project's own measure of a dead filter (no paper): unlike |gamma| alone it also sees a filter whose weights
    have vanished, and whose variance with them. A filter without a batch norm is measured by the deviation of its
    output on ``batches``. Needs data: only for layers without a batch norm. Labels: no. Gradients: no.

    Args:
        batches: inputs or (input, target) pairs, read once a call. Without them a filter that has no batch norm scores
            ``inf``.
        normalize: unless given, scales are compared over the whole network, as the threshold does.
        aggregation: unless given, ``"max"``: a coupled channel is dead only if each of the filters that make it is dead.

    Raises (when called):
        ModelError: a gamma or a running variance is NaN or infinite.
        DataError: ``batches`` is empty, or was read before.
    """

    usual = "none"
    usual_aggregation = "max"

    def __init__(
        self,
        batches: Iterable[Any] | None = None,
        *,
        normalize: Normalization | None = None,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(normalize=normalize, aggregation=aggregation)
        self.batches = batches

    def member_scores(self, model: nn.Module, inputs: Any, members: Sequence[Member]) -> list[torch.Tensor | None]:
        """The scales ``[channels]`` of each member; ``inf`` where a filter could not be measured."""
        by_weight = {layer.weight: scale for layer, scale in filter_scales(model, inputs, self.batches).items()}
        return [_scales(member, by_weight[member.name]) if member.name in by_weight else None for member in members]


def _scales(member: Member, scale: torch.Tensor | None) -> torch.Tensor:
    indices = torch.as_tensor(member.indices, dtype=torch.int64)
    # A grouped transposed convolution's weight holds only filters / groups along its output dimension: not told
    # apart here.
    if scale is None or int(indices.max()) >= len(scale):
        return torch.full((len(indices),), torch.inf, dtype=torch.float64)
    return scale[indices].amax(dim=1)
