"""Average activation of a channel."""

from __future__ import annotations

from typing import ClassVar

import torch

from flowprune.methods.importance._maps.map_criterion import ImageCriterion
from flowprune.methods.importance._maps.map_scores import channel_maps
from flowprune.methods.importance._scores.group_scores import Normalization
from flowprune.methods.importance.registry import REGISTRY


@REGISTRY.register("activation_mean")
class ActivationMean(ImageCriterion):
    """Mean of a channel's activations over images and positions, ``s_c = 1/(N M) sum_nm a_ncm``.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, arXiv
    1611.06440, section 2.2, the criterion "activation" (mean). It means something behind an activation that is not
    negative; where negative values can be, they count as less than nothing.
    Needs data: yes. Labels: no. Gradients: no.

    Each layer's scores are divided by their Euclidean length unless ``normalize`` is given, as in the paper. Arguments as for every
    ``MapCriterion``.
    """

    usual: ClassVar[Normalization] = "l2"

    @staticmethod
    def per_image(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """``[images, channels]``: the mean over the positions."""
        return channel_maps(tensor, indices).mean(dim=(2, 3), dtype=torch.float64)
