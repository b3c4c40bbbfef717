"""Average percentage of zeros of a channel's activations."""

from __future__ import annotations

from typing import ClassVar

import torch

from flowprune.methods.importance._maps.map_criterion import ImageCriterion
from flowprune.methods.importance._maps.map_scores import channel_maps
from flowprune.methods.importance._scores.group_scores import Normalization
from flowprune.methods.importance.registry import REGISTRY


@REGISTRY.register("apoz")
class APoZ(ImageCriterion):
    """One minus the average share of zeros among a channel's activations, ``s_c = 1 - 1/(N M) sum_nm [a_ncm = 0]``.

    Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures, 2016, arXiv
    1607.03250, section 3.1, equation 1 (there the channels with most zeros leave; N images, M positions). It tells
    channels apart only behind an activation that makes zeros.
    Needs data: yes. Labels: no. Gradients: no.

    The layers' shares are comparable as they are: unless ``normalize`` is given, nothing divides them. Before the activation
    (``stage``) there are no zeros. Arguments as for every ``MapCriterion``.
    """

    usual: ClassVar[Normalization] = "none"

    @staticmethod
    def per_image(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """``[images, channels]``: the share of positions that are not zero."""
        maps = channel_maps(tensor, indices)
        return (maps != 0).double().mean(dim=(2, 3))
