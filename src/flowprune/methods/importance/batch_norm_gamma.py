"""Absolute scale parameter of the batch norm a channel passes."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from flowprune.methods.importance._weights.weight_criterion import FilterCriterion
from flowprune.methods.importance.registry import REGISTRY


@REGISTRY.register("batch_norm_gamma")
class BatchNormGamma(FilterCriterion):
    """``s_c = |gamma_c|`` of the batch norms in a channel's coupled group.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, arXiv 1708.06519, section
    3 (there gamma is trained under an L1 penalty; without one the ranking says little).
    Needs data: no. Labels: no. Gradients: no.

    Unless ``normalize`` is given, one threshold on |gamma| runs over the whole network, as in the paper. Arguments as for every
    ``WeightCriterion``.
    """

    usual = "none"
    role = "normalization"

    def judged(self, model: nn.Module) -> Collection[str]:
        """Names of the batch norms' gammas."""
        # _NormBase is what BatchNorm1d..3d, SyncBatchNorm and their subclasses in model libraries share; layer and
        # group norms, whose gamma no running variance stands behind, do not derive from it.
        return {
            f"{path}.weight" if path else "weight"
            for path, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.modules.batchnorm._NormBase)
        }

    def per_filter(self, rows: torch.Tensor) -> torch.Tensor:
        """``[channels of the batch norm]``: |gamma|."""
        return rows.squeeze(1).abs()

    def together(self, scores: torch.Tensor) -> torch.Tensor:
        """``[channels]``: the mean over a channel's gammas."""
        return scores.mean(dim=1)
