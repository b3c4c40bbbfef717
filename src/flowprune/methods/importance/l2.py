"""Euclidean norm of a filter's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.tracing import tensors_of
from flowprune.methods.importance._scores.aggregation import Aggregation, checked_aggregation, group_scores
from flowprune.methods.importance._scores.layer_scales import Normalization, checked_normalization
from flowprune.methods.importance._weights.filters import filter_norms
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


@REGISTRY.register("l2")
class L2:
    """Euclidean length of a filter's weights, ``s_j = sqrt(sum_i W_ji^2)``.

    He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018, arXiv 1808.06866,
    equation 2 with p = 2.
    Needs data: no. Labels: no. Gradients: no.

    Args:
        normalize: what each layer's scores are divided by before they meet other layers'. The paper prunes every layer
            by the same share and needs none; the default ``"mean"`` makes one global ranking fair.
        aggregation: how the filters coupled into one channel share one score.

    Raises (when called):
        ModelError: a weight is NaN or infinite.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, *, normalize: Normalization = "mean", aggregation: Aggregation = "mean") -> None:
        self.normalize = checked_normalization(normalize)
        self.aggregation = checked_aggregation(aggregation)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group no weight makes."""
        scored = filter_norms(groups, tensors_of(model), order=2)
        return group_scores(scored, groups, self.normalize, self.aggregation)
