"""First-order change of the loss when a filter's weights are set to zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import tensors_of
from flowprune.methods.importance._passes.calibration_data import Loss, cross_entropy, labelled_in
from flowprune.methods.importance._passes.gradients import (
    differentiable_shadow,
    gradients_of,
    gradients_taken,
    leaves_named,
    loss_of,
)
from flowprune.methods.importance._scores.aggregation import Aggregation, checked_aggregation, group_scores
from flowprune.methods.importance._scores.layer_scales import Normalization, checked_normalization
from flowprune.methods.importance._weights.filters import filter_rows, group_filters, making_weights
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


@REGISTRY.register("taylor")
class TaylorWeight:
    """``s_j = (sum_i g_ji w_ji)^2`` over a filter's weights, g the gradient of a batch's mean loss; mean over batches.

    Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, arXiv 1906.10771, section 3.1: the
    squared first-order change of the loss when the whole filter leaves. Biases are left out, and batch norms stay in
    evaluation mode: in training mode a filter in front of one has g.w = 0 whatever it is worth.
    Needs data: yes. Labels: yes. Gradients: yes.

    Args:
        batches: an iterable of (input, targets) pairs; read once a call. The squares are taken batch by batch, so how
            the images are cut into batches matters.
        loss: (output, targets) -> mean loss; cross-entropy of logits unless given.
        normalize: the default ``"none"`` is the paper's: changes of the loss compare across layers as they are.
        aggregation: the default ``"sum"`` adds up what leaves together.

    Raises (when called):
        DataError: no batch, a used-up generator, or batches without labels.
        ModelError: a weight or the loss is NaN or infinite.
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
        normalize: Normalization = "none",
        aggregation: Aggregation = "sum",
    ) -> None:
        self.batches = batches
        self.loss = loss
        self.normalize = checked_normalization(normalize)
        self.aggregation = checked_aggregation(aggregation)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group of whose weights the loss does not
        depend on any."""
        weights = tensors_of(model)
        for group in groups:
            for _ in group_filters(group, weights):
                pass  # refuses NaN by the weight's name
        twin = differentiable_shadow(model)
        makers = [making_weights(group, weights) for group in groups]
        leaves = leaves_named(twin, (member.name for members in makers for member in members))
        totals: dict[tuple[int, int], torch.Tensor] = {}
        count = 0
        with gradients_taken():
            for images, targets in labelled_in(self.batches, model_device(model), "TaylorWeight"):
                gradients = gradients_of(loss_of(twin, images, targets, self.loss), leaves)
                for number, members in enumerate(makers):
                    for place, member in enumerate(members):
                        if member.name in gradients:
                            products = gradients[member.name].double() * weights[member.name].double()
                            change = filter_rows(products, member).sum(dim=1).square()
                            totals[number, place] = totals.get((number, place), torch.zeros_like(change)) + change
                count += 1
        scored = [
            [
                (member.name, totals[number, place] / count)
                for place, member in enumerate(members)
                if (number, place) in totals
            ]
            for number, members in enumerate(makers)
        ]
        return group_scores(scored, groups, self.normalize, self.aggregation)
