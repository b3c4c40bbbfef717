"""What all criteria share that judge a channel by its feature maps; most give every image's map a number."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import trace
from flowprune.errors import checked_name
from flowprune.methods.importance._maps.map_scores import Averages, check_map
from flowprune.methods.importance._maps.map_stages import MAP_AGGREGATIONS, STAGES, MapAggregation, Stage, maps_for
from flowprune.methods.importance._maps.map_watch import evaluation_shadow, watch_maps
from flowprune.methods.importance._passes.calibration_data import inputs_in
from flowprune.methods.importance._passes.full_precision import full_precision
from flowprune.methods.importance._scores.group_scores import NORMALIZATIONS, Normalization, group_scores

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, FeatureMap


class MapCriterion(ABC):
    """A number for every channel in every feature map that carries it; ``map_scores`` says which.

    Most criteria need no more than a number of every image's map: see ``ImageCriterion``.

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

    def looked_at(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[list[Any]]:
        """What ``map_scores`` is asked for of each group: its maps, unless a criterion says otherwise."""
        return [list(maps_for(group, self.stage, self.aggregation)) for group in groups]

    @abstractmethod
    def map_scores(self, model: nn.Module, inputs: Any, maps: Sequence[Any]) -> Sequence[torch.Tensor | None]:
        """Raw scores ``[channels]`` of each map, in order; None for one that cannot be judged.

        Args:
            model: the dense model.
            inputs: the example inputs the groups were traced with.
            maps: all that are looked at, of all groups; at least one.
        """

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group without a feature map that can be judged."""
        chosen = self.looked_at(model, inputs, groups)
        every = list(itertools.chain.from_iterable(chosen))
        found = iter(self.map_scores(model, inputs, every) if every else ())
        pairs = [[(one.position, next(found)) for one in maps] for maps in chosen]
        scored = [[(place, scores) for place, scores in maps if scores is not None] for maps in pairs]
        return group_scores(scored, groups, self.normalize, self.aggregation)


class ImageCriterion(MapCriterion):
    """The average over images of a number that an image's map of the channel has; ``per_image`` says which."""

    @staticmethod
    @abstractmethod
    def per_image(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """``[images, channels]`` from a layer's tensor ``[images, channels of the layer, ...]`` and the places ``[channels, k]`` of
        a group's channels in it."""

    def map_scores(self, model: nn.Module, inputs: Any, maps: Sequence[FeatureMap]) -> list[torch.Tensor | None]:
        """Every image weighs the same, however the images are cut into batches."""
        averages = Averages()
        at: dict[tuple[int, int], list[int]] = {}
        for number, feature in enumerate(maps):
            at.setdefault(feature.position, []).append(number)

        def see(position: tuple[int, int], tensor: torch.Tensor) -> None:
            check_map(tensor, maps[at[position][0]].unit)
            for number in at[position]:
                moved = tensor.movedim(maps[number].dimension, 1)
                indices = torch.as_tensor(maps[number].indices, device=tensor.device)
                averages.add(number, self.per_image(moved, indices))

        graph, twin = trace(model, inputs), evaluation_shadow(model)
        with torch.random.fork_rng(devices=[]), full_precision():
            for batch in inputs_in(self.batches, model_device(model), type(self).__name__):
                watch_maps(twin, graph, batch, at, see)
        return [averages.of(number) for number in range(len(maps))]
