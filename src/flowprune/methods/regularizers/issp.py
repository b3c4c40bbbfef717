"""Iterative soft shrinkage: at every step the weights that a mask would zero now become a little smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Mask, Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, ModelError, checked_name
from flowprune.methods.masks.n_m import NM
from flowprune.methods.masks.weight import Weight
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.coupled_channels import ChannelClass, coupled_channels
from flowprune.methods.regularizers.strength.given_number import checked_number
from flowprune.methods.regularizers.strength.growing import Growth
from flowprune.methods.regularizers.strength.pruned_weights import (
    Masks,
    kept_share,
    prunable_weights,
    saved_masks,
    scale_pruned,
)
from flowprune.methods.regularizers.tpp import pruned

Granularity = Literal["weight", "n_m", "filter"]
Form = Literal["percentage", "growing"]


@REGISTRY.register("issp")
class ISSP(Regularizer):
    """Iterative soft shrinkage: the weakest weights of each layer, selected anew at every step, shrink instead of being zeroed.

    Wang et al., Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution, ICCV 2023, arXiv 2303.09650; compared with
    the authors' code. After every step of the optimizer S is the ratio of each layer's weights with the smallest |w|, and::

        percentage (ISS-P):   w[S] <- rho w[S]                      rho = 0 is iterative hard thresholding
        growing (ISS-R):      gradient of w[S] += lambda(t) w[S]    lambda a staircase (``Growth``) up to ``limit``

    A weight whose gradient brings it back leaves S again. When ``pruning`` of the training is over, S is fixed: its weights are
    zero and held at zero while the others train on, and ``finish`` hands out the masks.

    ::

        method = ISSP(model, ratio=0.9)
        masks = train(model, data, settings, regularizer=method).outcomes[0].masks

    **What it acts on.** The paper prunes super-resolution transformers; here it is any network. "weight" and "n_m" take the weights
    of convolutions (grouped and depthwise ones, too), linear layers and attention; "filter" takes whole coupled channels (with
    biases, gammas and betas), so that what was zeroed can be cut; of those, ``left_out`` names the ones that cannot leave.

    **Where we differ from the authors' code.** Their N:M form takes no notice of the ratio and prunes layers that are to stay; here
    n / m is the largest of at most 1 - ratio, and they stay. Where m does not divide see ``NM``. Their fast option, which estimates
    the threshold, never shrinks anything; there is none here.

    Args:
        model: the network.
        inputs: example inputs; for "filter" alone.
        ratio: the share of each layer to prune; min(ceil(ratio n), floor(0.995 n)) of n weights.
        granularity: "weight", "n_m" or "filter".
        m: of N:M, in the order of memory as the authors have it.
        form: "percentage" or "growing".
        rho: the percentage left of a selected weight (published: 0.95), from 0 to below 1.
        delta, every, limit: of lambda; published 1e-4 every 20 steps up to 0.5. ``delta=None`` fits it to the stage.
        pruning: the share of the training's steps in which weights shrink; published: 100,020 of 300,020 steps.
        dense: names or patterns of weights that stay whole; None: the first and the last layer. Not for "filter".

    Raises:
        RecipeError: for options that are none.
        UnknownNameError: for an unknown granularity or form.
        ModelError: nothing can be pruned.
    """

    name: ClassVar[str] = "issp"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        ratio: float = 0.9,
        granularity: Granularity = "weight",
        m: int = 4,
        form: Form = "percentage",
        rho: float = 0.95,
        delta: float | None = None,
        every: int = 20,
        limit: float = 0.5,
        pruning: float = 1 / 3,
        dense: Sequence[str] | None = None,
    ) -> None:
        known: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
            ("granularity", granularity, ("weight", "n_m", "filter")),
            ("form", form, ("percentage", "growing")),
        )
        for kind, given, names in known:
            checked_name(kind, given, names)
        self._ratio = checked_number("ratio", ratio, "share of a layer")
        self._rho = checked_number("rho", rho, "share of a weight", "[0, 1)")
        self._form, self._pruning = form, checked_number("pruning", pruning, "share of the training")
        self._growth = Growth(1e-4 if delta is None else delta, every, limit)  # complains about what is none
        self._fits = delta is None
        self._classes: list[ChannelClass] = []
        self.left_out: dict[str, str] = {}
        if granularity == "filter":
            self._classes, self.left_out = coupled_channels(model, inputs, self.name)
            self._parameters = {place.name: place.parameter for one in self._classes for place in one.places}
        else:
            self._parameters = prunable_weights(model, dense, self.name)
        self._mask: Mask = NM(m=m, along="flat") if granularity == "n_m" else Weight()
        self._keep = _keeps(self._parameters, self._ratio, m if granularity == "n_m" else None)
        self._masks: Masks = {}
        self._step = self._ends = 0

    def begin(self, training: Training) -> None:
        """Learn how long the stage is in which weights shrink; select them, unless a state that was loaded did."""
        self._ends = max(1, int(self._pruning * training.total))
        if self._fits:
            stairs = max(1, self._ends // self._growth.every)
            self._growth = Growth(self._growth.limit / stairs, self._growth.every, self._growth.limit)
        self._masks = self._masks or self._selected()

    @torch.no_grad()
    def after_backward(self) -> None:
        """In the growing form: pull the selected weights to zero, through their gradients."""
        if self._form == "growing" and self._step < self._ends:
            strength = self._growth.at(self._step)
            for name, mask in self._masks.items():
                parameter = self._parameters[name]
                if parameter.grad is not None:
                    parameter.grad.add_(parameter * ~mask, alpha=strength)

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Select again and shrink; when that is over, hold the zeros.

        Raises:
            ModelError: before ``begin``, or if a weight is no number.
        """
        if not self._ends:
            raise ModelError("issp acts by the step: call begin(Training(optimizer, epochs, steps)) first")
        self._step += 1
        if self._step <= self._ends:
            self._masks = self._selected()
            if self._form == "percentage":
                scale_pruned(self._parameters, self._masks, self._rho)
        if self._step >= self._ends:
            scale_pruned(self._parameters, self._masks, 0.0)

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``kept_weights``: the share of the weights that the mask keeps; ``shrunk``: the mean |w| of the others over theirs."""
        sums = torch.zeros(2, dtype=torch.float64)
        for name, mask in self._masks.items():
            sizes = self._parameters[name].detach().abs().double()
            sums += torch.stack([(sizes * mask).sum(), (sizes * ~mask).sum()]).cpu()
        kept = kept_share(self._masks)
        means = sums / torch.tensor([kept, 1 - kept], dtype=torch.float64).clamp_min(1e-12)
        return {"kept_weights": kept, "shrunk": float(means[1] / means[0].clamp_min(1e-30))}

    @torch.no_grad()
    def finish(self) -> Outcome:
        """Zero what was selected last. ``masks`` of the weights; for "filter" ``leaves``, too."""
        self._step = max(self._step, self._ends)
        scale_pruned(self._parameters, self._masks, 0.0)
        leaves: dict[str, Tensor] = {}
        for one in self._classes:
            place = next(place for place in one.places if place.is_filters)
            silent = ~place.slices(self._masks[place.name]).any(1).cpu()
            for name, filters in one.filters(silent[place.rows].all(1).nonzero().flatten()).items():
                leaves[name] = torch.cat([leaves.get(name, filters[:0]), filters]).unique()
        masks = {name: mask.clone() for name, mask in self._masks.items()}
        return Outcome(masks=masks, leaves=leaves if self._classes else None)

    def state_dict(self) -> dict[str, Any]:
        """The step and the masks of the present selection."""
        return {"step": self._step, "masks": {name: mask.clone() for name, mask in self._masks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else, or of other weights.
        """
        try:
            step, masks = int(state["step"]), state["masks"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of issp: {error!r} is missing or malformed") from None
        self._masks, self._step = saved_masks(masks, self._parameters, self.name), step

    def _selected(self) -> Masks:
        if not self._classes:
            sizes = {name: parameter.detach().abs() for name, parameter in self._parameters.items()}
            return self._mask.select(sizes, self._keep)
        masks = {name: torch.ones_like(parameter, dtype=torch.bool) for name, parameter in self._parameters.items()}
        for one in self._classes:
            scores = one.magnitudes()
            if not torch.isfinite(scores).all():
                raise ModelError(f"the weights of {one.name} hold NaN or infinite values, so they cannot be ranked")
            weakest = scores.sort(stable=True).indices[: pruned(one.channels, self._ratio)]
            stays = torch.ones(one.channels).index_fill_(0, weakest, 0.0)
            for place in one.places:
                masks[place.name] &= place.along(stays, 1.0) > 0
        return masks


def _keeps(parameters: Mapping[str, Tensor], ratio: float, m: int | None) -> dict[str, float]:
    """The share of each weight that stays."""
    if m is not None:
        return dict.fromkeys(parameters, 1 - ratio)
    return {name: 1 - pruned(one.numel(), ratio) / one.numel() for name, one in parameters.items()}
