"""Distance of a filter from the geometric median of its layer."""

from __future__ import annotations

import torch

from flowprune.methods.importance._weights.weight_criterion import FilterCriterion
from flowprune.methods.importance.registry import REGISTRY


@REGISTRY.register("fpgm")
class FPGM(FilterCriterion):
    """Sum of a filter's Euclidean distances to the other filters of its layer, ``s_j = sum_k |W_j - W_k|_2``.

    He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019, arXiv
    1811.00250, section 3.3: a filter near the geometric median of its layer can be replaced by the others, whatever its
    size. Every filter of the layer counts as an "other", also those of other coupled groups and those that stay.
    Needs data: no. Labels: no. Gradients: no.

    The paper prunes every layer by the same share; here each layer's distances are divided by their mean unless ``normalize`` is
    given, which makes one global ranking fair. Arguments as for every ``WeightCriterion``.
    """

    def per_filter(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum over k of the Euclidean distance between rows j and k of ``[filters, n]``: ``[filters]``, float64."""
        exact = rows.double()
        products = exact @ exact.T
        squares = products.diagonal()
        squared = (squares[:, None] + squares[None, :] - 2 * products).clamp_min(0)
        # Products lose the digits of small differences; a row's distance from itself is 0 whatever they say.
        return squared.fill_diagonal_(0).sqrt().sum(dim=1)
