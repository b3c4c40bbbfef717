"""First-order change of the loss when a channel's activations are set to zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import first_tensor, trace
from flowprune.methods.importance._maps.map_criterion import MapCriterion
from flowprune.methods.importance._maps.map_gradients import maps_and_gradients
from flowprune.methods.importance._maps.map_scores import Averages, channel_maps, check_map
from flowprune.methods.importance._maps.map_stages import MapAggregation, Stage
from flowprune.methods.importance._passes.calibration_data import Loss, cross_entropy, labelled_in
from flowprune.methods.importance._passes.gradients import differentiable_shadow, gradients_taken
from flowprune.methods.importance._scores.group_scores import Normalization
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import FeatureMap


@REGISTRY.register("taylor_activation")
class TaylorActivation(MapCriterion):
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
        super().__init__(batches, stage=stage, normalize=normalize, aggregation=aggregation)
        self.loss = loss

    def map_scores(self, model: nn.Module, inputs: Any, maps: Sequence[FeatureMap]) -> list[torch.Tensor | None]:
        """The average change ``[channels]`` of each map; None where the loss does not depend on it."""
        averages = Averages()
        twin, graph = differentiable_shadow(model), trace(model, inputs)
        positions = {feature.position for feature in maps}
        with gradients_taken():
            for batch, targets in labelled_in(self.batches, model_device(model), "TaylorActivation"):
                seen = maps_and_gradients(twin, graph, positions, batch, targets, self.loss)
                for number, feature in enumerate(maps):
                    if feature.position not in seen:
                        continue
                    tensor, gradient = seen[feature.position]
                    check_map(tensor, feature.unit)
                    # the gradient of the mean loss is a 1/images part of each image's own
                    products = tensor.double() * gradient.double() * first_tensor(batch).shape[0]
                    indices = torch.as_tensor(feature.indices, device=tensor.device)
                    changes = channel_maps(products.movedim(feature.dimension, 1), indices).mean(dim=(2, 3))
                    averages.add(number, changes.abs())
        return [averages.of(number) for number in range(len(maps))]
