"""Distance of a filter from the geometric median of its layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.tracing import tensors_of
from flowprune.methods.importance._scores.aggregation import Aggregation, checked_aggregation, group_scores
from flowprune.methods.importance._scores.layer_scales import Normalization, checked_normalization
from flowprune.methods.importance._weights.filters import finite, making_weights
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


@REGISTRY.register("fpgm")
class FPGM:
    """Sum of a filter's Euclidean distances to the other filters of its layer, ``s_j = sum_k |W_j - W_k|_2``.

    He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019, arXiv
    1811.00250, section 3.3: a filter near the geometric median of its layer can be replaced by the others, whatever its
    size. Every filter of the layer counts as an "other", also those of other coupled groups and those that stay.
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
        tensors = tensors_of(model)
        distances: dict[tuple[str, int], torch.Tensor] = {}
        scored: list[list[tuple[str, torch.Tensor]]] = []
        for group in groups:
            scored.append([])
            for member in making_weights(group, tensors):
                weight = tensors[member.name]
                key = member.name, member.dimension
                if key not in distances:
                    rows = finite(weight, member.name).movedim(member.dimension, 0).flatten(1)
                    distances[key] = summed_distances(rows)
                places = torch.as_tensor(member.indices, device=weight.device)
                scored[-1].append((member.name, distances[key][places].sum(dim=1)))
        return group_scores(scored, groups, self.normalize, self.aggregation)


def summed_distances(rows: torch.Tensor) -> torch.Tensor:
    """Sum over k of the Euclidean distance between rows j and k of ``[rows, n]``: ``[rows]``, float64."""
    exact = rows.double()
    products = exact @ exact.T
    squares = products.diagonal()
    squared = (squares[:, None] + squares[None, :] - 2 * products).clamp_min(0)
    # Products lose the digits of small differences; a row's distance from itself is 0 whatever they say.
    return squared.fill_diagonal_(0).sqrt().sum(dim=1)
