"""Absolute scale parameter of the batch norm a channel passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.tracing import tensors_of
from flowprune.methods.importance._scores.aggregation import Aggregation, checked_aggregation, group_scores
from flowprune.methods.importance._scores.layer_scales import Normalization, checked_normalization
from flowprune.methods.importance._weights.filters import filter_rows, finite
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


@REGISTRY.register("batch_norm_gamma")
class BatchNormGamma:
    """``s_c = |gamma_c|`` of the batch norms in a channel's coupled group.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, arXiv 1708.06519, section
    3 (there gamma is trained under an L1 penalty; without one the ranking says little).
    Needs data: no. Labels: no. Gradients: no.

    Args:
        normalize: the default ``"none"`` is the paper's: one threshold on |gamma| over the whole network.
        aggregation: how several batch norms of one coupled group share one score.

    Raises (when called):
        ModelError: a gamma is NaN or infinite.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, *, normalize: Normalization = "none", aggregation: Aggregation = "mean") -> None:
        self.normalize = checked_normalization(normalize)
        self.aggregation = checked_aggregation(aggregation)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group without a batch norm's gamma."""
        tensors = tensors_of(model)
        # _NormBase is what BatchNorm1d..3d, SyncBatchNorm and their subclasses in model libraries share; layer and
        # group norms, whose gamma no running variance stands behind, do not derive from it.
        gammas = {
            f"{path}.weight" if path else "weight"
            for path, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.modules.batchnorm._NormBase)
        }
        scored = [
            [
                (member.name, filter_rows(finite(tensors[member.name], member.name), member).abs().mean(dim=1))
                for member in group.members
                if member.name in gammas and member.role == "normalization"
            ]
            for group in groups
        ]
        return group_scores(scored, groups, self.normalize, self.aggregation)
