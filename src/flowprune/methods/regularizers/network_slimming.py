"""Network slimming: the scales of batch norms under an L1 penalty, and one threshold on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.coupled_channels import coupled_model
from flowprune.methods.regularizers.strength.gammas import (
    batch_norm_gammas,
    gamma_scores,
    outcome_of,
    scaled_channels,
)
from flowprune.methods.regularizers.strength.given_number import checked_number

LEAST = 2
"""Channels that every layer keeps: the engine leaves no dimension fewer."""


@REGISTRY.register("network_slimming")
class NetworkSlimming(Regularizer):
    """Network slimming: ``loss = task + strength sum |gamma|`` over all batch norms; the smallest gammas' channels leave.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, arXiv 1708.06519, equation 1 and
    section 3; from the published text. The gradient is strength * sign(gamma), as the paper's subgradient. ``finish`` gives every
    filter the mean |gamma| of the norms its channel passes; with ``ratio`` the share of all channels with the smallest leaves, by
    one threshold over the network, but for two channels of every layer.

    The penalty acts on every batch norm, of grouped and depthwise convolutions, too. Linear layers and transformers have none:
    their channels are in ``left_out``; a network without batch norms is refused.

    Args:
        model: the network.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        strength: lambda; published: 1e-4 (VGG), 1e-5 (ResNet, DenseNet).
        ratio: the share of the channels that leaves (published: 0.7 for VGG, 0.4 to 0.6 for the others); None: a budget's task.

    Raises:
        RecipeError: for options that are none, or no ``inputs``.
        ModelError: no batch norm scales channels that could leave.
    """

    name: ClassVar[str] = "network_slimming"

    def __init__(
        self, model: nn.Module, *, inputs: Any = None, strength: float = 1e-4, ratio: float | None = None
    ) -> None:
        self._strength = checked_number("strength", strength, "strength", "[0, inf)")
        self._ratio = None if ratio is None else checked_number("ratio", ratio, "share of the channels", "(0, 1)")
        coupled = coupled_model(model, inputs, self.name)
        self._classes, self.left_out = scaled_channels(model, coupled, self.name)
        self._gammas = batch_norm_gammas(model)

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """``strength sum |gamma|``, a 0-dim tensor."""
        return self._strength * torch.stack([gamma.abs().sum() for gamma in self._gammas.values()]).sum()

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength``, and ``mean_gamma``: the mean |gamma|."""
        every = torch.cat([gamma.detach().abs().flatten().double() for gamma in self._gammas.values()])
        return {"strength": self._strength, "mean_gamma": float(every.mean())}

    def finish(self) -> Outcome:
        """``scores`` of the filters; with ``ratio`` ``leaves``, too. No weight is changed."""
        scores = [gamma_scores(one, self._gammas) for one in self._classes]
        if self._ratio is None:
            return outcome_of(self._classes, scores, None)
        every = torch.cat(scores).sort().values
        threshold = float(every[int(self._ratio * len(every))])

        def stays(number: int) -> Tensor:
            best = scores[number].argsort(descending=True, stable=True)[:LEAST]
            return (scores[number] >= threshold).index_fill_(0, best, True)

        return outcome_of(self._classes, scores, stays)
