"""How much of a layer's feature maps no other channel of the layer can stand in for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.importance.aggregation import group_scores
from flowprune.importance.map_scores import image_averages
from flowprune.importance.normalization import Normalization, checked_normalization
from flowprune.importance.registry import REGISTRY
from flowprune.importance.spectrum import nuclear_norms, rows_per_chunk
from flowprune.importance.stages import MapAggregation, Stage, checked_map_aggregation, checked_stage

if TYPE_CHECKING:
    from flowprune.coupling import CoupledGroup


@REGISTRY.register("chip")
class CHIP:
    """What the nuclear norm of a layer's maps loses with the channel, ``s_c = 1/N sum_n (|A_n|_* - |M_c A_n|_*)``.

    A_n is the (channels x height*width) matrix of image n at one layer, all its channels, whichever coupled groups they
    are in; M_c sets row c to zero. Sui et al., CHIP: CHannel Independence-based Pruning for Compact Neural Networks,
    NeurIPS 2021, arXiv 2110.13981, section 3 (equations for the independence of a single channel).
    One decomposition a channel and an image: the slowest of the criteria that look at maps.
    Needs data: yes. Labels: no. Gradients: no.

    Args:
        batches: an iterable of inputs, of (input, target) pairs or of dictionaries of keyword inputs; read once a call.
        stage: where the maps are taken (see ``NuclearNorm``).
        normalize: what each layer's scores are divided by. The paper prunes layer by layer and needs none; the default
            ``"mean"`` makes one global ranking fair.
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
            independence,
            stage=self.stage,
            aggregation=self.aggregation,
            criterion="CHIP",
        )
        return group_scores(scored, groups, self.normalize, self.aggregation)


def independence(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
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
