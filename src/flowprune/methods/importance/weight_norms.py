"""Norms of a filter's weights."""

from __future__ import annotations

from typing import ClassVar

import torch

from flowprune.methods.importance._weights.filters import row_norms
from flowprune.methods.importance._weights.weight_criterion import FilterCriterion
from flowprune.methods.importance.registry import REGISTRY


class _WeightNorm(FilterCriterion):
    order: ClassVar[int]

    def per_filter(self, rows: torch.Tensor) -> torch.Tensor:
        """``[filters]``: the norm of every filter."""
        return row_norms(rows, self.order)

    def together(self, scores: torch.Tensor) -> torch.Tensor:
        """``[channels]``: the norm of all of a channel's filters together."""
        lengths: torch.Tensor = torch.linalg.vector_norm(scores, self.order, dim=1)
        return lengths


@REGISTRY.register("l1")
class L1(_WeightNorm):
    """Sum of a filter's absolute weights, ``s_j = sum_i |W_ji|``.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv 1608.08710, section 3.1.
    Needs data: no. Labels: no. Gradients: no.

    The paper prunes layer by layer; here each layer's norms are divided by their mean unless ``normalize`` is given, which makes
    one global ranking fair: a filter is compared with its own layer's average. Arguments as for every ``WeightCriterion``.
    """

    order = 1


@REGISTRY.register("l2")
class L2(_WeightNorm):
    """Euclidean length of a filter's weights, ``s_j = sqrt(sum_i W_ji^2)``.

    He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018, arXiv 1808.06866,
    equation 2 with p = 2.
    Needs data: no. Labels: no. Gradients: no.

    The paper prunes every layer by the same share; here each layer's norms are divided by their mean unless ``normalize`` is
    given, which makes one global ranking fair. Arguments as for every ``WeightCriterion``.
    """

    order = 2
