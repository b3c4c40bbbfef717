"""Average rank of a channel's feature maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.importance.aggregation import group_scores
from flowprune.importance.map_scores import channel_maps, image_averages
from flowprune.importance.normalization import Normalization, checked_normalization
from flowprune.importance.registry import REGISTRY
from flowprune.importance.spectrum import rows_per_chunk
from flowprune.importance.stages import MapAggregation, Stage, checked_map_aggregation, checked_stage

if TYPE_CHECKING:
    from flowprune.coupling import CoupledGroup


@REGISTRY.register("hrank")
class HRank:
    """Mean over images of the rank of a channel's height x width feature map, ``s_c = 1/N sum_n rank(A_nc)``.

    Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020, arXiv 2002.10179, section 3.3. The rank
    counts the singular values above ``max(height, width) * eps`` times the largest, eps that of the maps' own type (what
    ``torch.linalg.matrix_rank`` does). A channel with 1 x 1 maps scores the share of images on which it is not zero.
    Needs data: yes. Labels: no. Gradients: no.

    Args:
        batches: an iterable of inputs, of (input, target) pairs or of dictionaries of keyword inputs; read once a call.
        stage: where the maps are taken (see ``NuclearNorm``).
        normalize: what each layer's scores are divided by. The paper prunes layer by layer and needs none; the default
            ``"mean"`` makes one global ranking fair: raw ranks grow with the resolution.
        aggregation: how the maps coupled into one channel share one score; ``"after-addition"`` looks at the maps after
            the residual additions only.

    Raises (when called):
        DataError: no batch, or a used-up generator.
        ModelError: a feature map is NaN or infinite.
    """

    needs_data: ClassVar[bool] = True

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        stage: Stage = "activated",
        normalize: Normalization = "mean",
        aggregation: MapAggregation = "mean",
    ) -> None:
        self.batches = batches
        self.stage = checked_stage(stage)
        self.normalize = checked_normalization(normalize)
        self.aggregation = checked_map_aggregation(aggregation)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group that has no feature map."""
        scored = image_averages(
            model,
            inputs,
            self.batches,
            groups,
            ranks,
            stage=self.stage,
            aggregation=self.aggregation,
            criterion="HRank",
        )
        return group_scores(scored, groups, self.normalize, self.aggregation)


def ranks(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
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
