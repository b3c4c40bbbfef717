"""How much of a layer's feature maps no other channel of the layer can stand in for."""

from __future__ import annotations

import torch

from flowprune.methods.importance._maps.map_criterion import ImageCriterion
from flowprune.methods.importance._spectra.spectrum import nuclear_norms, rows_per_chunk
from flowprune.methods.importance.registry import REGISTRY


@REGISTRY.register("chip")
class CHIP(ImageCriterion):
    """What the nuclear norm of a layer's maps loses with the channel, ``s_c = 1/N sum_n (|A_n|_* - |M_c A_n|_*)``.

    A_n is the (channels x height*width) matrix of image n at one layer, all its channels, whichever coupled groups they
    are in; M_c sets row c to zero. Sui et al., CHIP: CHannel Independence-based Pruning for Compact Neural Networks,
    NeurIPS 2021, arXiv 2110.13981, section 3 (equations for the independence of a single channel).
    One decomposition a channel and an image: the slowest of the criteria that look at maps.
    Needs data: yes. Labels: no. Gradients: no.

    The paper prunes layer by layer; here each layer's scores are divided by their mean unless ``normalize`` is given, which makes
    one global ranking fair. Arguments as for every ``MapCriterion``.
    """

    @staticmethod
    def per_image(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """``[images, channels]``: the change of the nuclear norm of each image's matrix when a channel's rows are zeroed."""
        layer = tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)  # [images, rows, positions]
        whole = nuclear_norms(layer, torch.float64)
        rows, positions = layer.shape[1:]
        kept = torch.ones(len(indices), rows, dtype=torch.float64, device=layer.device).scatter_(1, indices, 0.0)
        step = rows_per_chunk(rows * positions, torch.float64)
        return torch.stack(
            [
                total - torch.cat([nuclear_norms(mask[:, :, None] * one, torch.float64) for mask in kept.split(step)])
                for one, total in zip(layer.double(), whole, strict=True)
            ]
        )
