"""Average activation of a channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.importance.aggregation import group_scores
from flowprune.importance.map_scores import channel_maps, image_averages
from flowprune.importance.normalization import Normalization, checked_normalization
from flowprune.importance.registry import REGISTRY
from flowprune.importance.stages import MapAggregation, Stage, checked_map_aggregation, checked_stage

if TYPE_CHECKING:
    from flowprune.coupling import CoupledGroup


@REGISTRY.register("activation_mean")
class ActivationMean:
    """Mean of a channel's activations over images and positions, ``s_c = 1/(N M) sum_nm a_ncm``.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, arXiv
    1611.06440, section 2.2, the criterion "activation" (mean). It means something behind an activation that is not
    negative; where negative values can be, they count as less than nothing.
    Needs data: yes. Labels: no. Gradients: no.

    Args:
        batches: an iterable of inputs, of (input, target) pairs or of dictionaries of keyword inputs; read once a call.
        stage: where the maps are taken (see ``NuclearNorm``).
        normalize: what each layer's scores are divided by; the paper's is ``"l2"``.
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
        normalize: Normalization = "l2",
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
            means,
            stage=self.stage,
            aggregation=self.aggregation,
            criterion="ActivationMean",
        )
        return group_scores(scored, groups, self.normalize, self.aggregation)


def means(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``[images, channels]``: the mean over the positions."""
    return channel_maps(tensor, indices).mean(dim=(2, 3), dtype=torch.float64)
