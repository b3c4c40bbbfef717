"""Widening and squeezing: projections learn the features of full precision, and their columns leave one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.engine.measuring import measure
from flowprune.engine.tracing import call_model, model_of
from flowprune.errors import ArtifactError, FlowpruneError, ModelError, RecipeError
from flowprune.methods.quantizers._channelwise.widened_layer import WidenedConv2d
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.given_number import checked_number

LEAST = 2
"""Wide features that every layer keeps: the engine leaves no dimension fewer."""


@REGISTRY.register("squeezing")
class Squeezing(Regularizer):
    """Widened convolutions learn to give back the features of full precision by as few wide features as they can.

    After Liu et al., Widening and Squeezing, arXiv 2002.00555; "-style": neither code nor text beyond the abstract could be had.
    For every widened convolution (the replacement ``widened_convolution``), with Q(F_wide) its wide features on their
    grid, P its projection and F_fp what the convolution of full precision says in a frozen copy of the network::

        loss = task + features mean over layers of |F_fp - P Q(F_wide)|^2 / |F_fp|^2  +  lambda sum_c l_c,   l_c = r_c |P[:, c]|_2

    where r_c is how far the wide feature reaches. The group lasso is a proximal step after each of the optimizer's, so that columns
    become zero and not only small; with s, the root mean square of what is left of the layer's l, which makes layers of all
    scales alike, and eta_t the learning rate::

        P[:, c] <- max(0, 1 - strength s eta_t / (l_c sum_t eta_t)) P[:, c]

    so that ``strength`` is the way that all steps together would take a column, in units of s, whatever the length of the training.
    What is zero stays zero. With ``macs`` columns are shortened only until the zeros are enough for it; the two longest of a layer
    never are. A wide feature whose column is zero says nothing to what follows, and its filter leaves without a change. ``finish``
    gives every wide filter l_c / s and, with ``macs``, names those that leave: the zeros, and the smallest over all layers
    until the network has that share of the MACs that it had before it was widened, two of every layer staying. The cost of each
    is exact, as nothing else leaves with it. The projections stay in the network, see the replacement.

    Build it when the convolutions have just been widened: the frozen network is made of them. Its weights are part of the state,
    so that a resumed training has the same. What is not a widened convolution (grouped, depthwise and linear layers, all of
    transformers) is trained as usual.

    Args:
        model: the network with widened convolutions.
        inputs: example inputs, as ``flowprune.plan`` takes them; for ``macs`` alone.
        features: weight of the first term, at least 0.
        strength: of the group lasso, as a way, at least 0.
        macs: the share of the MACs of full precision that is to be left; None: ``finish`` says only what filters are worth.

    Raises:
        RecipeError: for options that are none, a share that cannot be reached, or ``macs`` without ``inputs``.
        ModelError: the model has no widened convolution, or one that was trained already.

    Example:
        >>> wide = fp.replace(model, inputs, replacement="widened_convolution", bits=4)
        >>> squeezing = Squeezing(wide, inputs=inputs, macs=0.5)
        >>> loss = criterion(wide(x), y) + squeezing.penalty(batch=(x, y))
    """

    name: ClassVar[str] = "squeezing"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        features: float = 0.1,
        strength: float = 5.0,
        macs: float | None = None,
    ) -> None:
        self._features = checked_number("features", features, "weight of a loss", "[0, inf)")
        self._strength = checked_number("strength", strength, "strength", "[0, inf)")
        root = model_of(model)
        self._layers = {name: one for name, one in root.named_modules() if isinstance(one, WidenedConv2d) and name}
        if not self._layers:
            raise ModelError(
                "squeezing acts on widened convolutions, and there is none; replace by widened_convolution before"
            )
        self._precise = _of_full_precision(root)
        self._gone = {
            name: torch.zeros(one.wide.out_channels, dtype=torch.bool, device=one.wide.weight.device)
            for name, one in self._layers.items()
        }
        self._way = 0.0
        self._costs: dict[str, int] = {}
        self._surplus = 0
        if macs is not None:
            self._count(root, inputs, checked_number("macs", macs, "share of the MACs", "(0, 1]"))
        self._says: dict[str, Tensor] = {}
        self._said: dict[str, Tensor] = {}
        self._hooks = [
            network.get_submodule(name).register_forward_hook(partial(_noting, notes, name))
            for network, notes in ((root, self._says), (self._precise, self._said))
            for name in self._layers
        ]

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """How far the features are from those of full precision on this batch, a 0-dim tensor.

        Raises:
            FlowpruneError: there is no batch, or the model did not run on it.
        """
        if batch is None or set(self._says) != set(self._layers):
            raise FlowpruneError(
                "squeezing compares features: run the model, then call penalty(batch=(inputs, targets))"
            )
        first = next(self._precise.parameters())
        if first.device != batch[0].device:
            self._precise.to(batch[0].device)
        with torch.no_grad():
            call_model(self._precise.eval(), batch[0])
        terms = []
        for name in self._layers:
            mine, theirs = self._says[name].float(), self._said[name].float()
            terms.append((mine - theirs).square().sum() / theirs.square().sum().clamp(min=1e-12))
        self.forget()
        return self._features * torch.stack(terms).mean()

    def begin(self, training: Training) -> None:
        """Learn what the learning rates of all steps add up to."""
        rate = float(training.optimizer.param_groups[0]["lr"])
        rates = training.rates or (lambda step: rate)
        self._way = sum(rates(step) for step in range(training.total))

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """The proximal step of the group lasso.

        Raises:
            ModelError: before ``begin``.
        """
        if not self._way:
            raise ModelError("squeezing must know the steps: call begin(Training(optimizer, epochs, steps)) first")
        rate = self._strength * float(optimizer.param_groups[0]["lr"]) / self._way
        enough = bool(self._costs) and self._surplus <= sum(
            cost * int(self._gone[name].sum()) for name, cost in self._costs.items()
        )
        for name, one in self._layers.items():
            gone, lengths = self._gone[name], one.lengths()
            lengths[gone] = 0
            factors = (~gone).to(lengths)
            if not enough:
                size = lengths[~gone].square().mean().sqrt()
                factors = (1 - rate * size / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)).clamp(min=0)
                factors[lengths.topk(min(LEAST, len(lengths))).indices] = 1
                gone |= factors == 0
            one.projection.weight.mul_(factors.view(1, -1, 1, 1))

    def forget(self) -> None:
        """What another method's forward left is not this step's."""
        self._says.clear()
        self._said.clear()

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``zero_columns``: the share of the projections' columns that are zero."""
        return {"zero_columns": float(torch.cat([*self._gone.values()]).double().mean())}

    def finish(self) -> Outcome:
        """``scores`` of the wide filters; with ``macs``, ``leaves``, too. No weight is changed."""
        scores = {}
        for name, one in self._layers.items():
            lengths = one.lengths().double().cpu()
            scores[f"{name}.scale.weight"] = lengths / lengths.square().mean().sqrt().clamp(min=1e-12)
        return Outcome(leaves=self._leaves(scores) if self._costs else None, scores=scores)

    def state_dict(self) -> dict[str, Any]:
        """Which columns are gone, and the network of full precision, which never changes."""
        return {"gone": _copied(self._gone), "precise": _copied(self._precise.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            ArtifactError: it is the state of something else.
        """
        for key, own in (("gone", self._gone), ("precise", self._precise.state_dict())):
            given = state.get(key)
            if not isinstance(given, Mapping) or _shapes(given) != _shapes(own):
                raise ArtifactError("the state is not that of squeezing a network of these layers")
            for name, one in own.items():
                one.copy_(given[name])

    def close(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.forget()

    def _count(self, model: nn.Module, inputs: Any, share: float) -> None:
        """What each wide feature costs, and how many MACs are to leave."""
        if inputs is None:
            raise RecipeError("squeezing must know how large images are to count MACs: give it example inputs, inputs=")
        whole, rows = measure(self._precise, inputs).macs, measure(model, inputs)
        by_layer = {row.layer: row.macs for row in rows.layers}
        for name, one in self._layers.items():
            self._costs[name] = (
                sum(by_layer[part] for part in (name, f"{name}.scale", f"{name}.projection")) // one.wide.out_channels
            )
        self._surplus = rows.macs - int(share * whole)
        most = sum(cost * (self._layers[name].wide.out_channels - LEAST) for name, cost in self._costs.items())
        if most < self._surplus:
            raise RecipeError(
                f"macs={share!r} cannot be reached: with {LEAST} wide features a layer {(rows.macs - most) / whole:.3f} are left"
            )

    def _leaves(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        left = {name: one.wide.out_channels for name, one in self._layers.items()}
        gone: dict[str, list[int]] = {name: [] for name in self._layers}
        surplus = self._surplus
        for score, name, number in sorted(_ranked(scores, self._layers)):
            if score > 0 and surplus <= 0:
                break
            if left[name] > LEAST:
                gone[name].append(number)
                left[name] -= 1
                surplus -= self._costs[name]
        return {f"{name}.scale.weight": torch.tensor(sorted(own), dtype=torch.int64) for name, own in gone.items()}


def _ranked(scores: Mapping[str, Tensor], names: Mapping[str, Any]) -> Iterator[tuple[float, str, int]]:
    for name in names:
        yield from ((worth, name, number) for number, worth in enumerate(scores[f"{name}.scale.weight"].tolist()))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in tensors.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: one.shape for name, one in tensors.items()}


def _of_full_precision(model: nn.Module) -> nn.Module:
    """A frozen copy with the convolutions that the widened ones were made of."""
    network = copy.deepcopy(model)
    for name, module in list(network.named_modules()):
        if isinstance(module, WidenedConv2d):
            parent, _, child = name.rpartition(".")
            try:
                setattr(network.get_submodule(parent), child, module.narrow())
            except ModelError as error:
                raise ModelError(f"{name}: {error}; build squeezing before the first step") from error
    return network.eval().requires_grad_(False)


def _noting(notes: dict[str, Tensor], name: str, module: nn.Module, arguments: Any, output: Tensor) -> None:
    notes[name] = output
