"""Weighted group sparse envelope: after every step a proximal step towards so many whole channels as a budget allows.

Beck and Refael, "Sparse Regularization via Bidualization", and "Structured Sparse Regularization via the Weighted Group Sparse
Envelope Function", arXiv 2212.12921. No code was published; value and proximal map agree with two public implementations of the
k-support norm and with a conic solver (the tests).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Training
from flowprune.errors import ModelError, RecipeError, checked_name
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.control import SCHEDULES, Control, Schedule
from flowprune.methods.regularizers.strength.controlled import Controlled
from flowprune.methods.regularizers.strength.coupled_channels import coupled_channels
from flowprune.methods.regularizers.strength.given_number import checked_number

COSTS = ("macs", "params", "channels")
SPARED = 0.1
"""The share of a layer's channels, and two at least, that do not compete: no layer vanishes."""


@REGISTRY.register("wgsef")
class WGSEF(Controlled[Control]):
    """Weighted group sparse envelope: proximal steps that leave as many whole channels as a budget allows.

    arXiv 2212.12921. With w_j all that makes channel j of the network (the weights and biases of the layers that make it, gamma and
    beta of their norms), d_j what it costs and k the budget, the envelope of 1/2 |w|^2 on {w: sum of d_j over w_j != 0 <= k} is::

        S_k(w) = min over 0 <= u_j <= 1, sum_j d_j u_j <= k  of  1/2 sum_j |w_j|^2 / u_j

    and after every step of the optimizer, with its learning rate eta::

        w_j <- w_j u_j / (eta lambda + u_j),   u_j = clip(|w_j| / sqrt(mu d_j) - eta lambda, 0, 1),   mu such that sum_j d_j u_j = k

    A channel with u_j = 0 is zero; one with u_j = 1 sees weight decay lambda; between them the weaker decays the faster, so that
    the survivors separate while lambda warms up. Whether the costs belong into the constraint, as here, or into the quadratic
    term, the sources that could be had leave open. With channels of unequal cost it is the envelope of the relaxed problem.

    ::

        method = WGSEF(model, inputs=images[:1], keep=0.5)
        train(model, data, settings, regularizer=method)
        plan(model, images[:1], importance=L2(), macs=0.4)    # exact, where the costs of single channels only nearly are

    ``finish`` keeps the channels with the largest |w_j| / sqrt(d_j) until they cost k, and makes zeros of the others: what survives
    costs k at most, or more by less than one channel.

    **What it acts on.** All channels that can leave one by one, of residual streams, linear layers, depthwise convolutions with
    what they follow and hidden layers of transformers, too; ``left_out`` names the others and says why. The strongest tenth of
    every class, and two at least, is spared (u_j = 1, paid for from k), or a layer could vanish.

    Args:
        model: the network.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        keep: k, as a share of what all channels cost that can leave.
        cost: d_j: "macs" or "params" that the dense model would lose with the channel alone, or "channels", each 1.
        strength: lambda, when it is warm.
        schedule: how lambda goes over the epochs, as ``FeatureFlow`` has it: "warm-up" (the first tenth), "linear" or "constant".

    Raises:
        RecipeError: for options that are none, or no ``inputs``.
        UnknownNameError: for an unknown cost or schedule.
        ModelError: if no channel of the model can leave.
    """

    name: ClassVar[str] = "wgsef"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        keep: float = 0.5,
        cost: Literal["macs", "params", "channels"] = "macs",
        strength: float = 1.0,
        schedule: Schedule = "warm-up",
    ) -> None:
        for kind, given, known in (("cost", cost, COSTS), ("schedule", schedule, SCHEDULES)):
            checked_name(kind, given, known)
        checked_number("keep", keep, "share of the costs", "(0, 1]")
        checked_number("strength", strength, "strength", "(0, inf)")
        self._classes, self.left_out = coupled_channels(model, inputs, "wgsef")
        each = [1 if cost == "channels" else getattr(one, cost) for one in self._classes]
        self._costs = torch.cat(
            [
                torch.full((one.channels,), float(d), dtype=torch.float64)
                for one, d in zip(self._classes, each, strict=True)
            ]
        ).clamp_min(1.0)
        self.budget = keep * float(self._costs.sum())
        spared = [min(one.channels, max(2, math.ceil(SPARED * one.channels))) for one in self._classes]
        self._spared = spared
        least = sum(d * n for d, n in zip(each, spared, strict=True)) / float(self._costs.sum())
        if keep < least:
            raise RecipeError(
                f"keep={keep!r} is less than a tenth of every layer costs, and two channels; give at least {least:.3f}"
            )
        self._strength, self._schedule = strength, schedule

    def begin(self, training: Training) -> None:
        """Learn how many epochs lambda has to warm up in.

        Raises:
            ArtifactError: the state that was loaded is of a training of other epochs.
        """
        self.controlled_by(Control(self._schedule, max(1, training.epochs)))

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """The proximal step, with the learning rate of the optimizer's first group of parameters.

        Raises:
            ModelError: before ``begin``, or if a weight is no number.
        """
        if self._control is None:
            raise ModelError("wgsef must know the epochs: call begin(Training(optimizer, epochs, steps)) first")
        lengths = self._lengths()
        strength = self._strength * self._control.factor * float(optimizer.param_groups[0]["lr"])
        kept = self._kept(lengths, strength)
        factors = torch.where(kept > 0, kept / (kept + strength), 0.0)
        for one, own in zip(self._classes, factors.split([one.channels for one in self._classes]), strict=True):
            one.scale(own)

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength``: lambda in the epoch that ended; ``surviving_cost``: of channels that are not zero, a share of all."""
        factor = 1.0
        if self._control is not None:
            factor = self._control.factor
            self._control.epoch_end(None)
        surviving = float(self._costs[self._lengths() > 0].sum() / self._costs.sum())
        return {"strength": self._strength * factor, "surviving_cost": surviving}

    def finish(self) -> Outcome:
        """Make zeros of what the budget does not pay for. ``leaves`` names it, ``scores`` has |w_j| / sqrt(d_j) of every filter."""
        lengths = self._lengths()
        ratios = lengths / self._costs.sqrt()
        spared = self._free(lengths)
        order = torch.argsort(torch.where(spared, math.inf, ratios), descending=True, stable=True)
        before = self._costs[order].cumsum(0) - self._costs[order]
        survives = torch.zeros_like(spared)
        survives[order] = (before < self.budget) | spared[order]
        survives &= lengths > 0
        ratios = torch.where(survives, ratios, 0.0)  # as they are once the others are zero
        leaves: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        sizes = [one.channels for one in self._classes]
        for one, own, worth in zip(self._classes, survives.split(sizes), ratios.split(sizes), strict=True):
            chosen = torch.nonzero(~own).flatten()
            one.silence(chosen)
            for name, filters in one.filters(chosen).items():
                leaves[name] = torch.cat([leaves.get(name, filters[:0]), filters]).unique()
            for place in one.places:
                if place.is_filters:
                    size = place.parameter.shape[place.dimension]
                    known = scores.setdefault(place.name, torch.full((size,), math.inf, dtype=torch.float64))
                    known[place.rows] = worth.unsqueeze(1).expand(place.rows.shape)
        return Outcome(leaves=leaves, scores=scores)

    def _lengths(self) -> Tensor:
        lengths = torch.cat([one.lengths() for one in self._classes])
        if not torch.isfinite(lengths).all():
            raise ModelError("a weight is NaN or infinite, so that no channel can be told from another; lower lr")
        return lengths

    def _free(self, lengths: Tensor) -> Tensor:
        """bool: the strongest channels of every class, which do not compete."""
        free = []
        for own, spared in zip(lengths.split([one.channels for one in self._classes]), self._spared, strict=True):
            strongest = torch.argsort(own, descending=True, stable=True)[:spared]
            free.append(torch.zeros(len(own), dtype=torch.bool).index_fill_(0, strongest, True))
        return torch.cat(free)

    def _kept(self, lengths: Tensor, strength: float) -> Tensor:
        """u_j of every channel."""
        free = self._free(lengths)
        kept = torch.ones_like(lengths)
        budget = self.budget - float(self._costs[free].sum())
        kept[~free] = shares_kept(lengths[~free], self._costs[~free], budget, strength)
        return kept


def shares_kept(lengths: Tensor, costs: Tensor, budget: float, strength: float) -> Tensor:
    """The u_j of the proximal map of ``strength`` times the envelope, exactly: a piecewise linear equation in 1 / sqrt(mu).

    With ``strength`` 0 they are the minimizer in the definition of S_k itself.

    Args:
        lengths: float64 ``[m]``, |w_j|.
        costs: float64 ``[m]``, d_j above 0.
        budget: k.
        strength: lambda, at least 0.

    Returns:
        float64 ``[m]`` in [0, 1]; 0 where the length is 0. O(m log m).
    """
    alive = lengths > 0
    kept = torch.zeros_like(lengths)
    if float(costs[alive].sum()) <= budget:
        kept[alive] = 1.0
        return kept
    if budget <= 0:
        return kept
    ratios, own = lengths[alive] / costs[alive].sqrt(), costs[alive]
    begins, ends = strength / ratios, (1 + strength) / ratios  # of 1 / sqrt(mu): where u_j leaves 0 and arrives at 1
    points, order = torch.cat([begins, ends]).sort()
    slopes = torch.cat([own * ratios, -own * ratios])[order].cumsum(0)
    spent = torch.cat([slopes.new_zeros(1), (slopes[:-1] * points.diff()).cumsum(0)])
    last = int((spent <= budget).nonzero().max())
    slope = float(slopes[last])
    root = float(points[last]) + ((budget - float(spent[last])) / slope if slope > 0 else 0.0)
    kept[alive] = (root * ratios - strength).clamp(0.0, 1.0)
    return kept


def envelope(lengths: Tensor, costs: Tensor, budget: float) -> float:
    """S_k: half the sum of |w_j|^2 / u_j at its minimum over u. Arguments as of ``shares_kept``."""
    kept = shares_kept(lengths, costs, budget, 0.0)
    alive = lengths > 0
    if not alive.any():
        return 0.0
    return float((lengths[alive].square() / kept[alive]).sum() / 2)
