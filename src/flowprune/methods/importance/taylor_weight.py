"""First-order change of the loss when a filter's weights are set to zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.methods.importance._passes.calibration_data import Loss, cross_entropy, labelled_in
from flowprune.methods.importance._passes.gradients import (
    differentiable_shadow,
    gradients_of,
    gradients_taken,
    leaves_named,
    loss_of,
)
from flowprune.methods.importance._scores.group_scores import Aggregation, Normalization
from flowprune.methods.importance._weights.filters import channel_rows, finite_weights
from flowprune.methods.importance._weights.weight_criterion import WeightCriterion
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import Member


@REGISTRY.register("taylor")
class TaylorWeight(WeightCriterion):
    """``s_j = (sum_i g_ji w_ji)^2`` over a filter's weights, g the gradient of a batch's mean loss; mean over batches.

    Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, arXiv 1906.10771, section 3.1: the
    squared first-order change of the loss when the whole filter leaves. Biases are left out, and batch norms stay in
    evaluation mode: in training mode a filter in front of one has g.w = 0 whatever it is worth.
    Needs data: yes. Labels: yes. Gradients: yes.

    Args:
        batches: an iterable of (input, targets) pairs; read once a call. The squares are taken batch by batch, so how
            the images are cut into batches matters.
        loss: (output, targets) -> mean loss; cross-entropy of logits unless given.
        normalize: unless given, the paper's ``"none"``: changes of the loss compare across layers as they are.
        aggregation: unless given, ``"sum"`` adds up what leaves together.

    Raises (when called):
        DataError: no batch, a used-up generator, or batches without labels.
        ModelError: a weight or the loss is NaN or infinite.
        FlowpruneError: the loss cannot be taken of this model's output.
    """

    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    usual = "none"
    usual_aggregation = "sum"

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        loss: Loss = cross_entropy,
        normalize: Normalization | None = None,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(normalize=normalize, aggregation=aggregation)
        self.batches = batches
        self.loss = loss

    def member_scores(self, model: nn.Module, inputs: Any, members: Sequence[Member]) -> list[torch.Tensor | None]:
        """The mean square ``[channels]`` of each member; None where the loss does not depend on its weights."""
        weights = finite_weights(model, members)
        twin = differentiable_shadow(model)
        leaves = leaves_named(twin, weights)
        totals: dict[int, torch.Tensor] = {}
        count = 0
        with gradients_taken():
            for images, targets in labelled_in(self.batches, model_device(model), "TaylorWeight"):
                gradients = gradients_of(loss_of(twin, images, targets, self.loss), leaves)
                for number, member in enumerate(members):
                    if member.name in gradients:
                        products = gradients[member.name].double() * weights[member.name].double()
                        change = channel_rows(products, member).sum(dim=1).square()
                        totals[number] = totals.get(number, torch.zeros_like(change)) + change
                count += 1
        return [totals[number] / count if number in totals else None for number in range(len(members))]
