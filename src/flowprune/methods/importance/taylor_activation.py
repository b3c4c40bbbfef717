"""First-order change of the loss when a channel's activations are set to zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import first_tensor, trace
from flowprune.errors import checked_name
from flowprune.methods.importance._maps.map_gradients import maps_and_gradients
from flowprune.methods.importance._maps.map_scores import channel_maps, check_map
from flowprune.methods.importance._maps.map_stages import MAP_AGGREGATIONS, STAGES, MapAggregation, Stage, maps_for
from flowprune.methods.importance._passes.calibration_data import Loss, cross_entropy, labelled_in
from flowprune.methods.importance._passes.gradients import differentiable_shadow, gradients_taken
from flowprune.methods.importance._scores.group_scores import NORMALIZATIONS, Normalization, group_scores
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


@REGISTRY.register("taylor_activation")
class TaylorActivation:
    """``s_c = 1/N sum_n |1/M sum_m (dL_n / da_ncm) a_ncm|`` over a channel's activations; L_n is the loss of image n.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, arXiv
    1611.06440, section 2.2, the criterion "Taylor expansion": M positions, the absolute value taken image by image.
    Needs data: yes. Labels: yes. Gradients: yes.

    Args:
        batches: an iterable of (input, targets) pairs; read once a call. How the images are cut into batches does not
            matter: in evaluation mode no image sees another.
        loss: (output, targets) -> the mean of the images' losses; cross-entropy of logits unless given.
        stage: where the maps are taken (see ``NuclearNorm``).
        normalize: what each layer's scores are divided by; the paper's is ``"l2"``.
        aggregation: how the maps coupled into one channel share one score; ``"after-addition"`` looks at the maps after
            the residual additions only.

    Raises (when called):
        DataError: no batch, a used-up generator, or batches without labels.
        ModelError: a feature map or the loss is NaN or infinite, or the forward depends on the data.
        FlowpruneError: the loss cannot be taken of this model's output.
    """

    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        loss: Loss = cross_entropy,
        stage: Stage = "activated",
        normalize: Normalization = "l2",
        aggregation: MapAggregation = "mean",
    ) -> None:
        self.batches = batches
        self.loss = loss
        self.stage = checked_name("stage", stage, STAGES)
        self.normalize = checked_name("normalization", normalize, NORMALIZATIONS)
        self.aggregation = checked_name("aggregation", aggregation, MAP_AGGREGATIONS)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group that has no feature map, or none the
        loss depends on."""
        chosen = [maps_for(group, self.stage, self.aggregation) for group in groups]
        every = [feature for maps in chosen for feature in maps]
        totals: dict[int, torch.Tensor] = {}
        rows: dict[int, int] = {}
        if every:
            twin = differentiable_shadow(model)
            graph = trace(model, inputs)
            positions = {feature.position for feature in every}
            with gradients_taken():
                for batch, targets in labelled_in(self.batches, model_device(model), "TaylorActivation"):
                    seen = maps_and_gradients(twin, graph, positions, batch, targets, self.loss)
                    for number, feature in enumerate(every):
                        if feature.position not in seen:
                            continue
                        tensor, gradient = seen[feature.position]
                        check_map(tensor, feature.unit)
                        # the gradient of the mean loss is a 1/images part of each image's own
                        products = (tensor.double() * gradient.double() * first_tensor(batch).shape[0]).movedim(
                            feature.dimension, 1
                        )
                        indices = torch.as_tensor(feature.indices, device=tensor.device)
                        change = channel_maps(products, indices).mean(dim=(2, 3)).abs().sum(dim=0)
                        totals[number] = totals.get(number, torch.zeros_like(change)) + change
                        rows[number] = rows.get(number, 0) + len(tensor)
        numbers = iter(range(len(every)))
        scored = []
        for maps in chosen:
            pairs = [(next(numbers), feature) for feature in maps]
            scored.append(
                [(feature.position, totals[number] / rows[number]) for number, feature in pairs if number in totals]
            )
        return group_scores(scored, groups, self.normalize, self.aggregation)
