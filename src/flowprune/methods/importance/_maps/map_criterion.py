"""What all criteria share that judge a channel by what single images' feature maps say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.errors import checked_name
from flowprune.methods.importance._maps.map_scores import image_averages
from flowprune.methods.importance._maps.map_stages import MAP_AGGREGATIONS, STAGES, MapAggregation, Stage
from flowprune.methods.importance._scores.group_scores import NORMALIZATIONS, Normalization, group_scores

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


class MapCriterion(ABC):
    """The average over images of a number that an image's map of the channel has; ``per_image`` says which.

    Args:
        batches: an iterable of inputs, of (input, target) pairs or of dictionaries of keyword inputs; read once a call.
        stage: where the maps are taken (see ``NuclearNorm``).
        normalize: what each layer's scores are divided by; unless given, what is usual for the criterion (``usual``).
        aggregation: how the maps coupled into one channel share one score; ``"after-addition"`` looks at the maps after
            the residual additions only.

    Raises (when called):
        DataError: no batch, or a used-up generator.
        ModelError: a feature map is NaN or infinite.
    """

    needs_data: ClassVar[bool] = True
    usual: ClassVar[Normalization] = "mean"

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        stage: Stage = "activated",
        normalize: Normalization | None = None,
        aggregation: MapAggregation = "mean",
    ) -> None:
        self.batches = batches
        self.stage = checked_name("stage", stage, STAGES)
        self.normalize = checked_name("normalization", self.usual if normalize is None else normalize, NORMALIZATIONS)
        self.aggregation = checked_name("aggregation", aggregation, MAP_AGGREGATIONS)

    @staticmethod
    @abstractmethod
    def per_image(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """``[images, channels]`` from a layer's tensor ``[images, channels of the layer, ...]`` and the places ``[channels, k]`` of
        a group's channels in it."""

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group that has no feature map."""
        scored = image_averages(
            model,
            inputs,
            self.batches,
            groups,
            self.per_image,
            stage=self.stage,
            aggregation=self.aggregation,
            criterion=type(self).__name__,
        )
        return group_scores(scored, groups, self.normalize, self.aggregation)
