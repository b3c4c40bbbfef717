"""Group lasso: the lengths of whole coupled channels as a penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.coupled_channels import ChannelClass, coupled_channels
from flowprune.methods.regularizers.strength.gammas import outcome_of
from flowprune.methods.regularizers.strength.given_number import checked_number


@REGISTRY.register("group_lasso")
class GroupLasso(Regularizer):
    """Group lasso: ``loss = task + strength sum_j sqrt(n_j) |w_j|``, w_j the n_j weights of all filters that make channel j.

    Wen et al., Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016, arXiv 1608.03665, equation 2, on filters; with
    the sqrt(n_j) of Yuan and Lin (2006), by which long filters are not spared. Where several layers make a channel (a residual
    stream) their filters are one group, so that they grow small together. ``finish`` gives every filter |w_j| / sqrt(n_j).

    **What it acts on.** All channels that can leave one by one: of convolutions, depthwise ones with what they follow, linear
    layers and hidden layers of transformers; ``left_out`` names the others and says why. Biases and norms are in no group.

    Args:
        model: the network.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        strength: of the penalty.
        eps: added to the squared length, so that a channel that is zero has a gradient of zero.

    Raises:
        RecipeError: for options that are none, or no ``inputs``.
        ModelError: if no channel of the model can leave.
    """

    name: ClassVar[str] = "group_lasso"

    def __init__(self, model: nn.Module, *, inputs: Any = None, strength: float = 1e-4, eps: float = 1e-12) -> None:
        for name, value in (("strength", strength), ("eps", eps)):
            checked_number(name, value, name, "[0, inf)")
        self._classes, self.left_out = coupled_channels(model, inputs, self.name)
        self._strength, self._eps = float(strength), float(eps)

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """``strength sum sqrt(n_j) |w_j|``, a 0-dim tensor."""
        terms = []
        for one in self._classes:
            squares, size = _squares(one)
            terms.append(math.sqrt(size) * (squares + self._eps).sqrt().sum())
        return self._strength * torch.stack(terms).sum()

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength``, and ``small_channels``: the share below a hundredth of their class's largest."""
        scores = self._scores()
        small = sum(int((score < 0.01 * score.max()).sum()) for score in scores)
        return {"strength": self._strength, "small_channels": small / sum(len(score) for score in scores)}

    def finish(self) -> Outcome:
        """``scores`` of the filters, for a budget. No weight is changed."""
        return outcome_of(self._classes, self._scores(), None)

    @torch.no_grad()
    def _scores(self) -> list[Tensor]:
        found = []
        for one in self._classes:
            squares, size = _squares(one)
            found.append((squares.double().cpu() / size).sqrt())
        return found


def _squares(one: ChannelClass) -> tuple[Tensor, int]:
    """``[channels]``: the squared length of each, and how many weights it has."""
    total: Tensor | None = None
    size = 0
    for place in one.places:
        if place.is_filters:
            rows = place.slices(place.parameter).square().sum(1)
            own = rows[place.rows.to(rows.device)].sum(1)
            total = own if total is None else total + own
            size += place.parameter.numel() // place.parameter.shape[place.dimension] * place.rows.shape[1]
    assert total is not None  # a class without filters is none
    return total, size
