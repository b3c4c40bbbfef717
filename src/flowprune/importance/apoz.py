"""Average percentage of zeros of a channel's activations."""

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


@REGISTRY.register("apoz")
class APoZ:
    """One minus the average share of zeros among a channel's activations, ``s_c = 1 - 1/(N M) sum_nm [a_ncm = 0]``.

    Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures, 2016, arXiv
    1607.03250, section 3.1, equation 1 (there the channels with most zeros leave; N images, M positions). It tells
    channels apart only behind an activation that makes zeros.
    Needs data: yes. Labels: no. Gradients: no.

    Args:
        batches: an iterable of inputs, of (input, target) pairs or of dictionaries of keyword inputs; read once a call.
        stage: where the maps are taken (see ``NuclearNorm``); before the activation there are no zeros.
        normalize: shares are comparable as they are, so the default is ``"none"``.
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
        normalize: Normalization = "none",
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
            living_shares,
            stage=self.stage,
            aggregation=self.aggregation,
            criterion="APoZ",
        )
        return group_scores(scored, groups, self.normalize, self.aggregation)


def living_shares(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``[images, channels]``: the share of positions that are not zero."""
    maps = channel_maps(tensor, indices)
    return (maps != 0).double().mean(dim=(2, 3))
