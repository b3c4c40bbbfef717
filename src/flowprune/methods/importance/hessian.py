"""Second-order sensitivity of the loss to a filter: its share of the Hessian's trace, times its size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import first_tensor
from flowprune.methods.importance._passes.calibration_data import Loss, cross_entropy, labelled_in
from flowprune.methods.importance._passes.gradients import (
    differentiable_shadow,
    gradients_of,
    gradients_taken,
    leaves_named,
    loss_of,
)
from flowprune.methods.importance._scores.checked_numbers import checked_count, checked_seed
from flowprune.methods.importance._scores.group_scores import Aggregation, Normalization
from flowprune.methods.importance._weights.filters import channel_rows, finite_weights, row_norms
from flowprune.methods.importance._weights.weight_criterion import WeightCriterion
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import Member


@REGISTRY.register("hessian")
class Hessian(WeightCriterion):
    """``s_j = Tr(H_j) / (2 p_j) * |W_j|_2^2``, H_j the block of the loss's Hessian of a filter's p_j weights.

    Yu et al., Hessian-Aware Pruning and Optimal Neural Implant (HAP), WACV 2022, arXiv 2101.08940. The traces are
    Hutchinson's estimate, ``Tr(H_j) ~ mean over v of v_j . (H v)_j`` with v of random signs over all prunable weights
    at once: one product with H serves every filter. H is the Hessian of the mean loss over all images, in evaluation
    mode. A negative trace counts as zero: it says that the estimate, or the loss's curvature, carries no order.
    Needs data: yes. Labels: yes. Gradients: yes, twice.

    Args:
        batches: an iterable of (input, targets) pairs; read once a call. How the images are cut into batches does not
            matter, except for memory: the graph of one batch's gradient is kept.
        loss: (output, targets) -> mean loss over the images; cross-entropy of logits unless given.
        probes: how many vectors v. The error of a trace falls as ``1/sqrt(probes)``; the published code's function takes
            300, its command line 3.
        seed: of the vectors; torch's global random state is neither read nor moved.
        normalize: unless given, the paper's ``"none"``: one ranking over the whole network.
        aggregation: how the filters coupled into one channel share one score.

    Raises (when called):
        DataError: no batch, a used-up generator, or batches without labels.
        ModelError: a weight or the loss is NaN or infinite.
        FlowpruneError: the loss cannot be taken of this model's output.
    """

    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    usual = "none"

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        loss: Loss = cross_entropy,
        probes: int = 10,
        seed: int = 0,
        normalize: Normalization | None = None,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(normalize=normalize, aggregation=aggregation)
        self.batches = batches
        self.loss = loss
        self.probes = checked_count("probes", probes)
        self.seed = checked_seed(seed)

    def member_scores(self, model: nn.Module, inputs: Any, members: Sequence[Member]) -> list[torch.Tensor | None]:
        """The sensitivity ``[channels]`` of each member; None where the loss does not depend on its weights."""
        weights = finite_weights(model, members)
        diagonals = self._diagonals(model, weights)

        def sensitivity(member: Member) -> torch.Tensor:
            rows = channel_rows(diagonals[member.name], member)
            lengths = row_norms(channel_rows(weights[member.name], member), 2)
            return rows.sum(dim=1).clamp_min(0) / (2 * rows.shape[1]) * lengths.square()

        return [sensitivity(member) if member.name in diagonals else None for member in members]

    def _diagonals(self, model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Mean over the probes of ``v * (H v)``, float64, by the name of the weight."""
        twin = differentiable_shadow(model)
        leaves = leaves_named(twin, names)
        totals: dict[str, torch.Tensor] = {}
        images = 0
        with gradients_taken():
            for batch, targets in labelled_in(self.batches, model_device(model), "Hessian"):
                count = first_tensor(batch).shape[0]
                images += count
                gradients = gradients_of(loss_of(twin, batch, targets, self.loss), leaves, create_graph=True)
                # The same vectors for every batch: then the estimate is that of the Hessian over all images.
                generator = torch.Generator(device="cpu").manual_seed(self.seed)
                for _ in range(self.probes):
                    signs = {name: random_signs(leaf, generator) for name, leaf in leaves.items()}
                    for name, product in _product(gradients, leaves, signs).items():
                        term = (signs[name] * product).double() * count
                        totals[name] = totals[name] + term if name in totals else term
        return {name: total / (images * self.probes) for name, total in totals.items()}


def random_signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """+1 and -1 with equal chance, of the shape, type and device of ``like``; drawn on the CPU, so the same anywhere."""
    signs = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return signs.to(like.device, like.dtype)


def _product(
    gradients: dict[str, torch.Tensor], leaves: dict[str, torch.Tensor], vector: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``H v`` by the name of the weight, for the weights that have a gradient."""
    linear = [name for name in gradients if not gradients[name].requires_grad]
    curved = [name for name in gradients if gradients[name].requires_grad]
    zeros = {name: torch.zeros_like(gradients[name]) for name in linear}
    if not curved:
        return zeros
    found = torch.autograd.grad(
        [gradients[name] for name in curved],
        [leaves[name] for name in gradients],
        grad_outputs=[vector[name] for name in curved],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(gradients, found, strict=True))
