"""Trainability Preserving Pruning: filters that are to leave are decorrelated from those that stay, and pulled to zero.

Wang and Fu, "Trainability Preserving Neural Pruning", ICLR 2023, arXiv 2207.12534. Compared with the authors' code in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, ModelError, RecipeError
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.coupled_channels import ChannelClass, Place, coupled_channels
from flowprune.methods.regularizers.strength.given_number import checked_number
from flowprune.methods.regularizers.strength.growing import Growth

GROWING = 10 / 11
"""The share of a training in which the strength grows, where ``delta`` is left to it: 100,000 of 110,000 steps, as published."""


@REGISTRY.register("tpp")
class TPP(Regularizer):
    """Trainability preserving pruning: chosen filters are decorrelated from the others and pulled to zero, ever harder.

    Wang and Fu, ICLR 2023, arXiv 2207.12534. Before the first step the filters S of each layer with the smallest mean |W| are
    chosen. At step t, with lambda(t) a staircase (``Growth``), V = W as ``[filters, weights]`` and G = V V^T::

        loss = task + decorrelation * lambda(t) * sum_layers mean((G - T)^2)      T: G without its rows and columns of S, constant
        gradient of W[S], bias[S], gamma[S], beta[S]  +=  lambda(t) * (W[S], bias[S], gamma[S], beta[S])

    (the decorrelation term is the paper's equation 3, the pull is the growing L2 regularization of GReg). When lambda has reached
    ``limit`` it stays there, and one layer after the other has its chosen filters set to zero and held at zero.

    ::

        method = TPP(model, inputs=images[:1], ratio=0.5)
        train(model, data, settings, regularizer=method)
        plan(model, images[:1], threshold=1e-6)               # what was chosen leaves, and nothing of the output changes

    **Where we differ from the authors' code.** It zeroes the weight, gamma and beta, and not the bias: without a batch norm behind
    it the channel would go on speaking. Here the bias becomes zero, too. It zeroes before the optimizer's step, whose momentum then
    moves the filters again; here they are zeroed after the step. It counts layers with ratio 0 in the order of zeroing; here they
    take no turn. Of a grouped convolution only filters of one group are decorrelated from each other: others read other channels.

    **What it acts on.** A ratio alone is for every layer whose channels can leave one by one and that makes no residual stream
    (the inner layers of blocks, also linear layers, depthwise convolutions with what they follow, hidden layers of transformers).
    A mapping of names or patterns may name streams as well; what is chosen is then chosen in all layers that make the stream.
    What cannot leave is in ``left_out`` with the reason; to name it is an error.

    Args:
        model: the network; its weights when ``begin`` is called decide what is chosen.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        ratio: the share of filters to choose, min(ceil(ratio * n), floor(0.995 * n)) of n; or names or patterns of layers -> share.
        delta: by how much lambda grows at a time (published: 1e-4); None fits it so that the growing takes 10/11 of the training.
        every: so many steps apart (published: 10 on CIFAR-10, 5 on ImageNet).
        limit: where it ends.
        decorrelation: the weight of the decorrelation term. Its gradient grows with the cube of the weights: the authors train
            with a learning rate of 1e-3.
        zero_every: steps between the zeroing of one layer and the next (published: 100); None spreads them over what is left.

    Raises:
        RecipeError: for options that are none, a layer that does not exist or cannot leave, or no ``inputs``.
        ModelError: if no channel of the model can leave.
    """

    name: ClassVar[str] = "tpp"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        ratio: float | Mapping[str, float] = 0.5,
        delta: float | None = None,
        every: int = 10,
        limit: float = 1.0,
        decorrelation: float = 1000.0,
        zero_every: int | None = None,
    ) -> None:
        classes, self.left_out = coupled_channels(model, inputs, self.name)
        self._ratios = _ratios(classes, self.left_out, ratio, self.name)
        self._acting = [one for one in classes if one.name in self._ratios]
        checked_number("decorrelation", decorrelation, "weight of a term", "[0, inf)")
        if zero_every is not None and zero_every < 1:
            raise RecipeError(f"zero_every={zero_every!r} is no number of steps; give at least 1, or leave it out")
        self._growth = Growth(1.0 if delta is None else delta, every, limit)  # complains about what is none
        self._delta, self._decorrelation, self._zero_every = delta, decorrelation, zero_every
        self._turn = 0
        self._step = 0
        self._chosen: dict[str, Tensor] = {}
        self._masks: list[tuple[Place, Tensor]] = []

    def begin(self, training: Training) -> None:
        """Choose the filters, unless a state that was loaded did, and fit to the training what was left open.

        Raises:
            RecipeError: the training is too short for the growing and the zeroing.
            ModelError: a weight is no number.
        """
        total, growth, layers = training.total, self._growth, len(self._acting)
        if self._delta is None:
            stairs = max(1, int(total * GROWING) // growth.every)
            self._growth = growth = Growth(growth.limit / stairs, growth.every, growth.limit)
        self._turn = self._zero_every or max(1, (total - 1 - growth.steps) // layers)
        needed = growth.steps + layers * self._turn + 1
        if total < needed:
            raise RecipeError(
                f"{self.name} needs {needed} steps to let its strength grow and to zero {layers} layers, and the training has "
                f"{total}; train longer, or leave delta and zero_every to it and set a smaller every"
            )
        self._chosen = self._chosen or {one.name: _weakest(one, self._ratios[one.name]) for one in self._acting}
        self._masks = []
        for one in self._acting:
            chosen = torch.zeros(one.channels).index_fill_(0, self._chosen[one.name], 1.0)
            self._masks += [(place, place.along(chosen, 0.0)) for place in one.places]

    @property
    def chosen(self) -> dict[str, list[int]]:
        """Name of a layer -> the numbers of the channels that are to leave, the weakest first; empty before ``begin``."""
        return {name: numbers.tolist() for name, numbers in self._chosen.items()}

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """The decorrelation term, a 0-dim tensor.

        Raises:
            ModelError: before ``begin``.
        """
        weight = self._decorrelation * self._strength()
        terms = [
            decorrelation_loss(place.slices(place.parameter), mask.reshape(-1) > 0, place.groups)
            for place, mask in self._masks
            if weight and place.is_filters
        ]
        return weight * torch.stack(terms).sum() if terms else super().penalty(task_loss)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Pull the chosen filters to zero, through their gradients."""
        strength = self._strength()
        for place, mask in self._masks:
            if place.parameter.grad is not None and self._pulls(place):
                place.parameter.grad.add_(place.parameter * mask, alpha=strength)

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Count the step; zero the layers whose turn has come."""
        past = self._step - self._growth.steps
        for number, one in enumerate(self._acting, start=1):
            if past >= number * self._turn:
                one.silence(self._chosen[one.name])
        self._step += 1

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength``: lambda of the epoch's last step."""
        return {"strength": self._growth.at(max(0, self._step - 1))}

    def finish(self) -> Outcome:
        """The chosen filters are zero; ``leaves`` names them."""
        leaves: dict[str, Tensor] = {}
        for one in self._acting:
            one.silence(self._chosen[one.name])
            for name, filters in one.filters(self._chosen[one.name]).items():
                leaves[name] = torch.cat([leaves.get(name, filters[:0]), filters]).unique()
        return Outcome(leaves=leaves)

    def state_dict(self) -> dict[str, Any]:
        """The step and the chosen filters."""
        return {"step": self._step, "chosen": {name: numbers.clone() for name, numbers in self._chosen.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else, or of other layers.
        """
        own = {one.name: one.channels for one in self._acting}
        try:
            step, chosen = int(state["step"]), {str(name): torch.as_tensor(n) for name, n in state["chosen"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of {self.name}: {error!r} is missing or malformed") from None
        wrong = chosen and (
            set(chosen) != set(own)
            or any(len(n) != pruned(own[name], self._ratios[name]) for name, n in chosen.items())
        )
        if wrong:
            raise ArtifactError(f"the state is of {self.name} on other layers or with other ratios")
        self._step, self._chosen = step, chosen

    def _pulls(self, place: Place) -> bool:
        """Whether the growing L2 acts there."""
        return True

    def _strength(self) -> float:
        if not self._masks:
            raise ModelError(
                f"{self.name} acts by the step: call begin(Training(optimizer, epochs, steps)) first, and after_backward() and "
                "after_step() in every step"
            )
        return self._growth.at(self._step)


def decorrelation_loss(filters: Tensor, chosen: Tensor, groups: int = 1) -> Tensor:
    """The mean over all pairs of filters of their squared inner product, where one of the two is chosen; 0 elsewhere.

    Args:
        filters: ``[F, n]``, one row a filter.
        chosen: bool ``[F]``.
        groups: of the convolution: pairs of two groups count as 0.

    Returns:
        A 0-dim tensor, whose gradient is (4 / F^2) (M * G) V, with M 1 on the rows and columns of the chosen.
    """
    grouped = filters.unflatten(0, (groups, -1))
    picked = chosen.unflatten(0, (groups, -1))
    gram = grouped @ grouped.transpose(1, 2)
    touched = picked[:, :, None] | picked[:, None, :]
    total: Tensor = (gram * touched).square().sum()
    return total / len(filters) ** 2


def pruned(filters: int, ratio: float) -> int:
    """How many of so many filters are chosen: never all of them."""
    return min(math.ceil(ratio * filters), int(0.995 * filters))


def _weakest(one: ChannelClass, ratio: float) -> Tensor:
    scores = one.magnitudes()
    if not torch.isfinite(scores).all():
        raise ModelError(f"the weights of {one.name} hold NaN or infinite values, so its filters cannot be ranked")
    return scores.sort(stable=True).indices[: pruned(one.channels, ratio)]


def _ratios(
    classes: list[ChannelClass], left_out: Mapping[str, str], given: float | Mapping[str, float], method: str
) -> dict[str, float]:
    """Name of every class that is acted on -> its ratio."""
    for share in given.values() if isinstance(given, Mapping) else (given,):
        checked_number("ratio", share, "share of the filters to remove")
    if not isinstance(given, Mapping):
        found = {one.name: given for one in classes if not one.added}
    else:
        found = {}
        for pattern, share in given.items():
            named = [one.name for one in classes if any(fnmatchcase(layer, pattern) for layer in _layers(one))]
            if not named:
                reason = next((why for layer, why in left_out.items() if fnmatchcase(layer, pattern)), None)
                raise RecipeError(
                    f"{method} cannot act on {pattern!r}: {reason or 'no layer of that name has filters'}"
                )
            for name in named:
                found.setdefault(name, share)
    acting = {one.name: found[one.name] for one in classes if pruned(one.channels, found.get(one.name, 0)) > 0}
    if not acting:
        raise RecipeError(
            f"{method} would remove no filter; give a higher ratio, or name layers: ratio={{'layer*': 0.5}}"
        )
    return acting


def _layers(one: ChannelClass) -> set[str]:
    return {place.name.rpartition(".")[0] for place in one.places if place.is_filters}
