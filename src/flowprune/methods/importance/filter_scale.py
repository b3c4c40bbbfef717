"""Effective filter scale: how much of a filter's output gets past its batch norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.filter_scales import filter_scales
from flowprune.methods.importance._scores.aggregation import Aggregation, checked_aggregation, group_scores
from flowprune.methods.importance._scores.layer_scales import Normalization, checked_normalization
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, Member


@REGISTRY.register("filter_scale")
class FilterScale:
    """``s_c = |gamma_c| * sqrt(var_c / (var_c + eps))`` of the batch norm behind the filter: the deviation of what
    leaves it.

    This project's own measure of a dead filter (no paper): unlike |gamma| alone it also sees a filter whose weights
    have vanished, and whose variance with them. A filter without a batch norm is measured by the deviation of its
    output on ``batches``. Needs data: only for layers without a batch norm. Labels: no. Gradients: no.

    Args:
        batches: inputs or (input, target) pairs, read once a call. Without them a filter that has no batch norm scores
            ``inf``.
        normalize: the default ``"none"`` compares scales over the whole network, as the threshold does.
        aggregation: the default ``"max"`` lets a coupled channel be dead only if each of the filters that make it is
            dead.

    Raises (when called):
        ModelError: a gamma or a running variance is NaN or infinite.
        DataError: ``batches`` is empty, or was read before.
    """

    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        batches: Iterable[Any] | None = None,
        *,
        normalize: Normalization = "none",
        aggregation: Aggregation = "max",
    ) -> None:
        self.batches = batches
        self.normalize = checked_normalization(normalize)
        self.aggregation = checked_aggregation(aggregation)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` where a filter could not be measured."""
        by_weight = {layer.weight: scale for layer, scale in filter_scales(model, inputs, self.batches).items()}
        scored = [
            [
                (member.name, _scales(member, by_weight.get(member.name)))
                for member in group.members
                if member.role == "output" and member.name in by_weight
            ]
            for group in groups
        ]
        return group_scores(scored, groups, self.normalize, self.aggregation)


def _scales(member: Member, scale: torch.Tensor | None) -> torch.Tensor:
    indices = torch.as_tensor(member.indices, dtype=torch.int64)
    # A grouped transposed convolution's weight holds only filters / groups along its output dimension: not told
    # apart here.
    if scale is None or int(indices.max()) >= len(scale):
        return torch.full((len(indices),), torch.inf, dtype=torch.float64)
    return scale[indices].amax(dim=1)
