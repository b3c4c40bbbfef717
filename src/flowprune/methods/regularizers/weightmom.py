"""WeightMom-style pruning: little by little the weights go whose worth, averaged over the steps so far, is least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, ModelError, RecipeError
from flowprune.methods.importance.weight_scores import REGISTRY as SCORES
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.cubic_sparsity import cubic_sparsity
from flowprune.methods.regularizers.strength.given_number import checked_number
from flowprune.methods.regularizers.strength.pruned_weights import (
    Masks,
    kept_share,
    prunable_weights,
    saved_masks,
    scale_pruned,
)


@REGISTRY.register("weightmom")
class WeightMom(Regularizer):
    """WeightMom-style: m <- mu m + (1 - mu) score at every step; at every round the weights of the smallest m go for good.

    After "WeightMom: Learning Sparse Networks using Iterative Momentum-based pruning", arXiv 2208.05970. There is
    no code, and only the abstract could be had, so what follows is ours::

        sparsity after round r of R:   s (1 - (1 - r / R)^3)
        of layer l goes a quota proportional to q_l n_l,  q_l = (1 - s_l) / sum (1 - s)      s_l: its sparsity so far, n_l: its size

    so layers that are sparse already give less. None comes back; what stays trains on. In the end exactly floor(weights n) of the n
    weights stay. Weights of convolutions (grouped and depthwise ones, too), linear layers and attention; biases and norms are kept.

    Args:
        model: the network.
        inputs: not needed.
        weights: the share of the weights acted on that stays.
        score: what a single weight is worth, by name (``flowprune.methods.importance.weight_scores``); one that needs data is given
            the step's batch.
        momentum: mu.
        rounds: R.
        until: the share of the training after which the last round is over.
        dense: names or patterns of weights that stay whole; None: the first and the last layer.

    Raises:
        RecipeError: for options that are none.
        UnknownNameError: no score has this name.
        ModelError: nothing can be pruned.
    """

    name: ClassVar[str] = "weightmom"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        weights: float = 0.1,
        score: str = "magnitude",
        momentum: float = 0.9,
        rounds: int = 20,
        until: float = 0.75,
        dense: Sequence[str] | None = None,
    ) -> None:
        for name, value in (("weights", weights), ("until", until)):
            checked_number(name, value, "share", "(0, 1]")
        checked_number("momentum", momentum, "momentum", "[0, 1)")
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise RecipeError(f"rounds={rounds!r} is no number of rounds; give at least 1")
        self._model, self._score = model, SCORES[score]()
        self._weights, self._momentum, self._rounds, self._until = float(weights), momentum, rounds, until
        self._parameters = prunable_weights(model, dense, self.name)
        self._average: dict[str, Tensor] = {}
        self._masks: Masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in self._parameters.items()}
        self._batch: Any = None
        self._step = self._every = 0

    def begin(self, training: Training) -> None:
        """Spread the rounds over the training."""
        self._rounds = min(self._rounds, max(1, int(self._until * training.total)))
        self._every = max(1, int(self._until * training.total) // self._rounds)

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """0; the batch is remembered for the score."""
        self._batch = batch
        return super().penalty(task_loss)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Average the scores, prune when a round is due, hold the zeros.

        Raises:
            ModelError: before ``begin``, or if a score is no number.
        """
        if not self._every:
            raise ModelError("weightmom acts by the step: call begin(Training(optimizer, epochs, steps)) first")
        scale_pruned(self._parameters, self._masks, 0.0)
        self._step += 1
        with torch.enable_grad():
            scores = self._score(self._model, None if self._batch is None else [self._batch])
        for name in self._parameters:
            score = scores[name].detach().float()
            if not torch.isfinite(score).all():
                raise ModelError(f"the scores of {name} are no numbers, so its weights cannot be ranked")
            known = self._average.get(name)
            self._average[name] = score.clone() if known is None else known.lerp_(score, 1 - self._momentum)
        if self._step % self._every == 0 and self._step // self._every <= self._rounds:
            self._prune(self._step // self._every)

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``kept_weights``: the share of the weights acted on that stay."""
        return {"kept_weights": kept_share(self._masks)}

    def finish(self) -> Outcome:
        """Carry out what rounds are left and hand out the ``masks``."""
        if self._average:
            self._prune(self._rounds)
        return Outcome(masks={name: mask.clone() for name, mask in self._masks.items()})

    def state_dict(self) -> dict[str, Any]:
        """The step, the averages and the masks."""
        return {
            "step": self._step,
            "average": {name: one.clone() for name, one in self._average.items()},
            "masks": {name: mask.clone() for name, mask in self._masks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else, or of other weights.
        """
        try:
            step, average, masks = int(state["step"]), dict(state["average"]), state["masks"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of weightmom: {error!r} is missing or malformed") from None
        if average and set(average) != set(self._parameters):
            raise ArtifactError("the state is of weightmom on other weights")
        self._masks = saved_masks(masks, self._parameters, self.name)
        self._average = {name: one.to(self._parameters[name].device).clone() for name, one in average.items()}
        self._step = step

    @torch.no_grad()
    def _prune(self, number: int) -> None:
        """As many weights go as the schedule has after this round, by quotas."""
        total = sum(mask.numel() for mask in self._masks.values())
        alive = {name: int(mask.sum()) for name, mask in self._masks.items()}
        last = total - int(self._weights * total + 1e-6)
        due = last if number >= self._rounds else int(cubic_sparsity(1 - self._weights, number, self._rounds) * total)
        quotas = shared_out(due - (total - sum(alive.values())), list(alive.values()))
        for (name, mask), quota in zip(self._masks.items(), quotas, strict=True):
            if quota > 0:
                worth = torch.where(mask, self._average[name], torch.inf).flatten()
                mask.view(-1)[worth.sort(stable=True).indices[:quota]] = False
        scale_pruned(self._parameters, self._masks, 0.0)


def shared_out(amount: int, sizes: Sequence[int]) -> list[int]:
    """Whole numbers that add up to ``amount``, in proportion to ``sizes``; the largest remainders are rounded up.

    Example:
        >>> shared_out(10, [30, 20, 1])
        [6, 4, 0]
    """
    total = sum(sizes)
    if amount <= 0 or total == 0:
        return [0] * len(sizes)
    exact = [amount * size / total for size in sizes]
    shares = [int(one) for one in exact]
    order = sorted(range(len(sizes)), key=lambda place: (shares[place] - exact[place], place))
    for place in order[: amount - sum(shares)]:
        shares[place] += 1
    return shares
