"""Average rank of a channel's feature maps."""

from __future__ import annotations

import torch

from flowprune.methods.importance._maps.map_criterion import ImageCriterion
from flowprune.methods.importance._maps.map_scores import channel_maps
from flowprune.methods.importance._spectra.spectrum import rows_per_chunk
from flowprune.methods.importance.registry import REGISTRY


@REGISTRY.register("hrank")
class HRank(ImageCriterion):
    """Mean over images of the rank of a channel's height x width feature map, ``s_c = 1/N sum_n rank(A_nc)``.

    Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, arXiv 2002.10179, section 3.3. The rank
    counts the singular values above ``max(height, width) * eps`` times the largest, eps that of the maps' own type (what
    ``torch.linalg.matrix_rank`` does). A channel with 1 x 1 maps scores the share of images on which it is not zero.
    Needs data: yes. Labels: no. Gradients: no.

    The paper prunes layer by layer; here each layer's ranks are divided by their mean unless ``normalize`` is given, which makes
    one global ranking fair: raw ranks grow with the resolution. Arguments as for every ``MapCriterion``.
    """

    @staticmethod
    def per_image(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """``[images, channels]``: the rank of every map."""
        maps = channel_maps(tensor, indices)
        if maps.dtype in (torch.float16, torch.bfloat16):
            maps = maps.float()  # there is no decomposition in half precision
        height, width = maps.shape[2:]
        tolerance = max(height, width) * torch.finfo(maps.dtype).eps
        found = []
        for chunk in maps.flatten(0, 1).split(rows_per_chunk(height * width, maps.dtype)):
            values = torch.linalg.svdvals(chunk)
            found.append((values > tolerance * values[:, :1]).sum(dim=1))
        return torch.cat(found).view(maps.shape[:2])
