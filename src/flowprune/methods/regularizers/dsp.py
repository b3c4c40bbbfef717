"""Dynamic structure pruning: groups of filters are learned while each group's channels are pulled to zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.engine.tracing import model_of
from flowprune.errors import ArtifactError, ModelError, RecipeError, checked_name
from flowprune.methods.masks.group_channel import group_channel_mask
from flowprune.methods.regularizers import learned_groups as groups_of
from flowprune.methods.regularizers.grouped_layers import GroupedLayer, grouped_layers, kept_macs, means_of_profiles
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.given_number import checked_number

Grouping = Literal["learned", "kmeans"]


@REGISTRY.register("dsp")
class DSP(Regularizer):
    """Dynamic structure pruning: which filters of a layer read the same channels is learned, with a group lasso on these groups.

    Park, Kim, Kim, Kim and Choi, AAAI 2023, arXiv 2303.09736; every step compared with the authors' code. Every layer has logits A
    ``[G, F]``; P, a Gumbel softmax of them, is drawn once a step (``learned_groups``). After the optimizer's step from W, with
    c = strength lr (t + 1) / N times the layer's scale::

        look ahead:  W2 = W - c dR/dW(W, P);  W3: one more step on the same batch, by the same optimizer with copied state
        gradient:    D = dR/dP(W3, P) + d/dP <dR/dW(W, P), W4 - W2>,   W4 = W3 - c dR/dW(W3, P)
        back to W;   Adam (1e-3, eps 1e-12) on A with the gradient of sum(P D)
        W <- W - c dR/dW(W, hard P of the new A)

    ``finish`` gives group-channel masks at the smallest threshold (``group_channel_mask``), found by bisection over all layers, at
    which no more than ``macs`` of the layers' multiply-accumulates are left; ``branched_convolution.with_branches`` then makes the
    network of small dense convolutions that computes the masked one.

    **Where we differ from the authors' code.** The mixed derivative is the exact one; theirs is ``mixed="published"``. The
    look-ahead copies the optimizer's momentum, which in today's torch theirs shares and so moves twice. A group of which no
    channel may leave keeps all; theirs loses all. Whole filters leave only where none of their kernels stays, without their rule
    for every second layer; what is dead behind a mask is found by the engine when it is cut.

    **What it acts on.** Convolutions of one group, but for the first and those of shortcuts (1x1, named "shortcut" or
    "downsample"); ``left_out`` names the others: grouped and depthwise convolutions, linear layers and so all of transformers but
    patches.

    Args:
        model: the network.
        inputs: example inputs, for the layers' scales and MACs.
        groups: G; published: 2, 3 and 4.
        strength: of the penalty; published: 2e-3 (ResNet-20), 5e-4 (ResNet-56).
        temperature: of the softmax.
        macs: the share of the layers' MACs that is to be left, for ``finish``.
        grouping: "learned" as above, about twice the work of a step; or "kmeans", the cheap form: once, at the start, filters whose
            kernels have alike lengths are put together, and only the last line above is carried out.
        mixed: "exact" or "published".
        learning_rate: of the logits.
        dense: names or patterns of layers that stay whole, beside those that always do.
        seed: of the logits and the noise.

    Raises:
        RecipeError: for options that are none, or no ``inputs``.
        UnknownNameError: for an unknown grouping or derivative.
        ModelError: there is no such convolution.
    """

    name: ClassVar[str] = "dsp"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        groups: int = 4,
        strength: float = 5e-4,
        temperature: float = 0.5,
        macs: float = 0.5,
        grouping: Grouping = "learned",
        mixed: groups_of.Mixed = "exact",
        learning_rate: float = 1e-3,
        dense: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        checked_name("grouping", grouping, ("learned", "kmeans"))
        checked_name("mixed derivative", mixed, ("exact", "published"))
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
            raise RecipeError(f"groups={groups!r} is no number of groups; give at least 1")
        for name, value in (("strength", strength), ("temperature", temperature), ("learning_rate", learning_rate)):
            checked_number(name, value, name.replace("_", " "), "(0, inf)")
        checked_number("macs", macs, "share of the MACs", "(0, 1]")
        if inputs is None:
            raise RecipeError("dsp must know how large the layers' inputs are: give it example inputs, inputs=")
        self._model = model_of(model)
        layers, self.left_out = grouped_layers(self._model, inputs, groups)
        self._layers = [one for one in layers if not any(fnmatchcase(one.name, pattern) for pattern in dense)]
        self.left_out |= {one.name: "dense= names it" for one in layers if one not in self._layers}
        if not self._layers:
            raise ModelError("dsp groups the filters of convolutions of one group behind the first, and there is none")
        self._strength, self._temperature, self._macs = float(strength), float(temperature), float(macs)
        self._mixed: groups_of.Mixed = mixed
        self._learned = grouping == "learned"
        self._random = torch.Generator().manual_seed(seed)
        self.logits = {one.name: self._first_logits(one, groups) for one in self._layers}
        self._adam = torch.optim.Adam(self.logits.values(), lr=learning_rate, eps=1e-12)
        self._noise: dict[str, Tensor] = {}
        self._step = self._total = 0

    def begin(self, training: Training) -> None:
        """Learn how many steps there are; in the cheap form, put the filters together by their kernels as they are now."""
        self._total = max(1, training.total)
        if not self._learned and self._step == 0:
            for one in self._layers:
                own = means_of_profiles(one.weight.detach(), len(self.logits[one.name]))
                with torch.no_grad():
                    self.logits[one.name].zero_().scatter_(0, own[None].to(self.logits[one.name].device), 1.0)

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Learn the groups by looking ahead, then pull at the weights with hard groups.

        Raises:
            ModelError: before ``begin``.
        """
        if not self._total:
            raise ModelError("dsp acts by the step: call begin(Training(optimizer, epochs, steps)) first")
        rate = self._strength * float(optimizer.param_groups[0]["lr"]) * (self._step + 1) / self._total
        if self._learned:
            self._learn(optimizer, loss_again, rate)
        for one in self._layers:
            _pull(one, groups_of.hard_groups(self.logits[one.name].detach()), rate)
        self._step += 1

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength`` as it stands, and ``sure``: the mean probability of every filter's likeliest group, without noise."""
        sure = torch.cat([(one.detach() / self._temperature).softmax(0).amax(0).cpu() for one in self.logits.values()])
        grown = self._strength * min(1.0, self._step / max(1, self._total))
        return {"strength": grown, "sure": float(sure.double().mean())}

    @torch.no_grad()
    def finish(self) -> Outcome:
        """The masks, carried out on the weights."""
        masks = self.masks()
        for one in self._layers:
            one.weight.masked_fill_(~masks[f"{one.name}.weight"], 0.0)
        return Outcome(masks=masks)

    def masks(self) -> dict[str, Tensor]:
        """Name of a weight -> bool of its shape, at the smallest threshold that meets the budget of MACs."""
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            if kept_macs(self._layers, self._kernels(middle)) > self._macs:
                low = middle
            else:
                high = middle
        kernels = self._kernels(high)
        return {
            f"{one.name}.weight": own[:, :, None, None].expand(one.weight.shape).clone()
            for one, own in zip(self._layers, kernels, strict=True)
        }

    def groups(self) -> dict[str, Tensor]:
        """Name of a layer -> int64 ``[F]``, the group of every filter."""
        return {name: one.detach().argmax(0) for name, one in self.logits.items()}

    def state_dict(self) -> dict[str, Any]:
        """The step, the logits with their optimizer's state, and where the random numbers stand."""
        return {
            "step": self._step,
            "logits": {name: one.detach().clone() for name, one in self.logits.items()},
            "adam": copy.deepcopy(self._adam.state_dict()),
            "random": self._random.get_state().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else, or of other layers or groups.
        """
        try:
            step, logits, adam, random = int(state["step"]), dict(state["logits"]), state["adam"], state["random"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of dsp: {error!r} is missing or malformed") from None
        if {name: one.shape for name, one in logits.items()} != {name: one.shape for name, one in self.logits.items()}:
            raise ArtifactError("the state is of dsp on other layers or with other groups")
        with torch.no_grad():
            for name, one in logits.items():
                self.logits[name].copy_(one)
        self._adam.load_state_dict(adam)
        self._random.set_state(random.cpu())
        self._step = step

    def _first_logits(self, one: GroupedLayer, groups: int) -> nn.Parameter:
        drawn = torch.randn(groups, one.weight.shape[0], generator=self._random, dtype=torch.float64) * 1e-3
        return nn.Parameter(drawn.to(one.weight.device, one.weight.dtype))

    def _drawn(self, like: Tensor) -> Tensor:
        """Gumbel noise."""
        uniform = torch.rand(like.shape, generator=self._random, dtype=torch.float64).clamp_(1e-12, 1 - 1e-12)
        return -(-uniform.log()).log().to(like.device, like.dtype)

    def _learn(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor], rate: float) -> None:
        drawn = {
            name: self._noise[name] if name in self._noise else self._drawn(one) for name, one in self.logits.items()
        }
        chances = {
            name: groups_of.probabilities(one, drawn[name], self._temperature) for name, one in self.logits.items()
        }
        soft = {name: one.detach() for name, one in chances.items()}
        before = _Snapshot(self._model, optimizer)
        start = [one.weight.detach().clone() for one in self._layers]
        for one in self._layers:
            _pull(one, soft[one.name], rate)
        second = [one.weight.detach().clone() for one in self._layers]
        optimizer.zero_grad()
        loss_again().backward()
        optimizer.step()
        gradients = [groups_of.probability_gradient(one.weight.detach(), soft[one.name]) for one in self._layers]
        for one in self._layers:
            _pull(one, soft[one.name], rate)
        moved = [one.weight.detach() - from_ for one, from_ in zip(self._layers, second, strict=True)]
        before.restore()
        self._adam.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for one, first, gradient, displacement in zip(self._layers, start, gradients, moved, strict=True):
            mixed = groups_of.mixed_gradient(first, soft[one.name], displacement, self._mixed)
            total = total + (chances[one.name] * (gradient + mixed)).sum().double().cpu()
        total.backward()
        self._adam.step()

    def _kernels(self, threshold: float) -> list[Tensor]:
        own = self.groups()
        return [group_channel_mask(one.weight, own[one.name], threshold) for one in self._layers]


@torch.no_grad()
def _pull(one: GroupedLayer, probability: Tensor, rate: float) -> None:
    one.weight.sub_(groups_of.weight_gradient(one.weight, probability), alpha=rate * one.scale)


class _Snapshot:
    """Weights, gradients, buffers and the optimizer's state, to be put back as they were."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._tensors = [(one, one.detach().clone()) for one in (*model.parameters(), *model.buffers())]
        self._gradients = [(one, None if one.grad is None else one.grad.clone()) for one in model.parameters()]
        self._state = {key: copy.deepcopy(value) for key, value in optimizer.state.items()}

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, values in self._tensors:
            tensor.copy_(values)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
