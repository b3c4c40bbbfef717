"""How far a channel moves along its stage: the quantity that feature flow regularization makes small."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import Graph, trace
from flowprune.methods.importance._maps.map_criterion import MapCriterion
from flowprune.methods.importance._maps.map_scores import Averages, channel_maps, check_map
from flowprune.methods.importance._maps.map_stages import maps_for
from flowprune.methods.importance._maps.map_watch import Position, evaluation_shadow, watch_maps
from flowprune.methods.importance._passes.calibration_data import inputs_in
from flowprune.methods.importance._passes.full_precision import full_precision
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, FeatureMap


class Step(NamedTuple):
    """Where a channel is before and behind a step; nowhere before, where it is made new."""

    before: FeatureMap | None
    behind: FeatureMap

    @property
    def position(self) -> Position:
        """Where it ends."""
        return self.behind.position


@REGISTRY.register("flow")
class FlowLength(MapCriterion):
    """``s_c = mean over the steps l of |d_lc|``, ``d_lc = Y_(l+1)c - Y_lc`` the channel's step from block to block of its stage.

    This project's own, after the first term of Feature Flow Regularization; no paper prunes by it. The steps are those of the
    coupled group: the stream of a residual network has one at every block that ends in it, between maps of the same positions, and
    |.| is the mean over images and positions. A channel that no block adds anything to does not move, and scores 0. What belongs to
    no stream, such as the inside of a block or a plain layer, is made new there: its one step comes from nothing, ``|Y_c|``.
    Needs data: yes. Labels: no. Gradients: no.

    Each step's lengths are divided by their mean over the layer unless ``normalize`` is given. Arguments as for every
    ``MapCriterion``; at the usual ``stage`` a stream is seen behind its additions and their activations.
    """

    def looked_at(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[list[Step]]:
        """The steps of each group."""
        graph = trace(model, inputs)
        return [self._steps(group, graph) for group in groups]

    def _steps(self, group: CoupledGroup, graph: Graph) -> list[Step]:
        maps = sorted(maps_for(group, self.stage, self.aggregation), key=lambda feature: feature.position)
        pairs = itertools.pairwise(maps)
        steps = [Step(a, b) for a, b in pairs if _positions(a, graph) == _positions(b, graph)]
        return steps or [Step(None, feature) for feature in maps]

    def map_scores(self, model: nn.Module, inputs: Any, maps: Sequence[Step]) -> list[torch.Tensor | None]:
        """``[channels]``: the mean over images and positions of every step's size."""
        steps, graph = maps, trace(model, inputs)
        averages, twin = Averages(), evaluation_shadow(model)
        arriving: dict[Position, list[int]] = {}
        for number, (_, behind) in enumerate(steps):
            arriving.setdefault(behind.position, []).append(number)
        leaving = {before.position for before, _ in steps if before is not None}
        here: dict[Position, torch.Tensor] = {}

        def see(position: Position, tensor: torch.Tensor) -> None:
            for number in arriving.get(position, ()):
                before, behind = steps[number]
                check_map(tensor, behind.unit)
                step = _maps(behind, tensor)
                if before is not None:
                    step = step - _maps(before, here[before.position])
                averages.add(number, step.abs().mean(dim=(2, 3), dtype=torch.float64))
            if position in leaving:
                here[position] = tensor.clone()  # a later operator may write into it

        with torch.random.fork_rng(devices=[]), full_precision():
            for batch in inputs_in(self.batches, model_device(model), "FlowLength"):
                watch_maps(twin, graph, batch, {*arriving, *leaving}, see)
        return [averages.of(number) for number in range(len(steps))]


def _positions(feature: FeatureMap, graph: Graph) -> tuple[object, ...]:
    """What two maps must agree in for their difference to be one: their shape, but for how many channels lie beside these."""
    value = graph.operations[feature.position[0]].outputs[feature.position[1]]
    shape = () if value is None else graph.values[value].shape
    return feature.dimension, feature.indices.shape, *shape[: feature.dimension], *shape[feature.dimension + 1 :]


def _maps(feature: FeatureMap, tensor: torch.Tensor) -> torch.Tensor:
    """``[images, channels, height, width]``."""
    return channel_maps(tensor.movedim(feature.dimension, 1), torch.as_tensor(feature.indices, device=tensor.device))
