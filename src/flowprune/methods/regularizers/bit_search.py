"""Joint pruning and mixed precision: how many bits every channel gets, none of them among the choices, learned with the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.engine.tracing import model_of
from flowprune.errors import ArtifactError, ModelError, RecipeError, checked_name
from flowprune.methods.quantizers._channelwise.min_max import checked_bits, mixed
from flowprune.methods.regularizers.bit_costs import COSTS, Cost, alive, cost_of, latency_table
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.searched_layers import SearchedLayer, searched_layers

KEPT = 2
"""Channels of a group that stay: a dimension is not cut further."""


@REGISTRY.register("mixed_precision")
class BitSearch(Regularizer):
    """Every channel chooses among numbers of bits, 0 bits among them, by logits that are learned against a cost.

    Joint pruning and channel-wise mixed-precision quantization, arXiv 2407.01054; quantizers, mixtures, sizes and
    bit operations are compared with the authors' code (fixtures), the latency is not: it follows their table and the formula of
    ``bit_costs``::

        W_f = sum_p theta[p, f] Q_p(W)_f,  theta = softmax(logits / T) over p,  loss + strength cost(theta) / cost(most bits)

    Channels of one coupled group share their logits, so that a residual stream has one choice a channel; the cost of a layer counts
    the inputs that are still there. The optimizer of the training moves the weights behind the grids; the logits have momentum of
    their own. T falls by ``exp(-cooling)`` an epoch. Between steps the model's weights are the mixture. A bias is scaled by
    ``1 - theta[0, f]``, too (ours), so that a channel of 0 bits is silent and leaves without a trace.

    ``finish`` decides: the likeliest number of each channel, but two channels of a group stay. Its outcome has ``bits`` and
    ``leaves``; after ``close`` the model has the weights behind the grids, with zeros where there are 0 bits. Activations are
    quantized by the replacement ``pact``, before. Batch norms have to be folded, by the replacement ``folded_norms``.

    Linear and depthwise layers are searched; grouped ones get at least the least other number. What ``left_out`` names keeps its
    floating-point weights.

    Args:
        model: the network.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        strength: of the cost, relative to that of the most bits everywhere.
        cost: "size", "bit_operations" or "latency".
        precisions: what channels choose from, ascending.
        table: for the latency: a file that comes along ("mpic") or the path of one.
        temperature: T in the first epoch.
        cooling: published: 0.045.
        rate: of the logits' SGD with momentum 0.9 (published: 0.01).
        ramp: whether the strength rises from a hundredth over half of the epochs.

    Raises:
        RecipeError: for options that are none, or no ``inputs``.
        ModelError: a batch norm is not folded, or no channel could leave.
    """

    name: ClassVar[str] = "mixed_precision"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        strength: float = 0.5,
        cost: Cost = "size",
        precisions: Sequence[int] = (0, 2, 4, 8),
        table: str = "mpic",
        temperature: float = 1.0,
        cooling: float = 0.045,
        rate: float = 0.01,
        ramp: bool = False,
    ) -> None:
        checked_name("cost", cost, COSTS)
        numbers = {"strength": strength, "temperature": temperature, "rate": rate, "cooling": cooling}
        for option, value in numbers.items():
            least = 0 if option in ("strength", "cooling") else 1e-6
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
                raise RecipeError(f"{option}={value!r} is none; give a number of at least {least:g}")
        self._precisions = tuple(checked_bits(one, "precisions") for one in precisions)
        if list(self._precisions) != sorted(set(self._precisions)) or not any(self._precisions):
            raise RecipeError(f"precisions={list(precisions)}: give different numbers of bits, ascending")
        self._model = model_of(model)
        self.choices, self.layers, self.left_out = searched_layers(self._model, inputs, self.name)
        self._strength, self._kind, self._temperature = float(strength), cost, float(temperature)
        self._cooling, self._ramp = float(cooling), bool(ramp)
        activations = sorted({layer.size.activation_bits for layer in self.layers})
        self._table = latency_table(table, activations, self._precisions) if cost == "latency" else None
        start = torch.tensor([bits / max(self._precisions) for bits in self._precisions])
        self.logits = [self._first_logits(choice.channels, choice.can_leave, start) for choice in self.choices]
        self._sgd = torch.optim.SGD(self.logits, lr=rate, momentum=0.9)
        self._behind: dict[str, Tensor] = {}
        self._decided: list[Tensor] | None = None
        self._epoch, self._epochs, self._begun = 0, 1, False
        self._reference = float(self._cost([self._only(max(self._precisions), one.channels) for one in self.choices]))

    @torch.no_grad()
    def begin(self, training: Training) -> None:
        """Take the weights over; at the very start they are divided by what the share of 0 bits takes from them."""
        self._epochs, self._begun = max(1, training.epochs), True
        if not self._behind:
            shares = self.shares()
            for layer in self.layers:
                living = 1 - self._of_zero(layer.of_filters(shares))
                for name, parameter in layer.parameters().items():
                    self._behind[name] = parameter / living.to(parameter).view(-1, *[1] * (parameter.ndim - 1))
        self._write()

    def shares(self) -> list[Tensor]:
        """Theta ``[precisions, channels]`` of every choice: as it is learned, or what was decided."""
        if self._decided is not None:
            return self._decided
        return [torch.softmax(one / self._temperature, 0) for one in self.logits]

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """The strength times the cost, relative to that of the most bits everywhere."""
        risen = min(1.0, 2 * self._epoch / self._epochs)
        factor = self._strength * (0.01 + 0.99 * risen if self._ramp else 1.0)
        found = factor * self._cost(self.shares()) / self._reference
        return found if task_loss is None else found.to(task_loss)

    def after_backward(self) -> None:
        """Share the gradients at the mixture out among the weights behind the grids and the logits.

        Raises:
            ModelError: before ``begin``.
        """
        if not self._begun:
            raise ModelError("mixed_precision acts by the step: call begin(Training(optimizer, epochs, steps)) first")
        shares = self.shares()
        behind: dict[str, Tensor] = {}
        values: list[Tensor] = []
        upstream: list[Tensor] = []
        for layer in self.layers:
            for name, parameter in layer.parameters().items():
                if parameter.grad is not None:
                    behind[name] = self._behind[name].detach().requires_grad_()
                    values.append(self._effective(layer, behind[name], shares))
                    upstream.append(parameter.grad.to(values[-1]))
        learned = [one for one in self.logits if one.requires_grad]
        found = torch.autograd.grad(values, [*behind.values(), *learned], upstream, allow_unused=True) if behind else ()
        parameters = {name: one for layer in self.layers for name, one in layer.parameters().items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._behind[name])
            for name, gradient in zip(behind, found, strict=False):
                parameters[name].grad = gradient
            for one, gradient in zip(learned, found[len(behind) :], strict=True) if behind else ():
                if gradient is not None:
                    one.grad = gradient if one.grad is None else one.grad + gradient

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Move the logits, remember where the step led, and write the new mixture."""
        self._sgd.step()
        self._sgd.zero_grad()
        with torch.no_grad():
            for layer in self.layers:
                for name, parameter in layer.parameters().items():
                    self._behind[name] = parameter.detach().clone()
        self._write()

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """The ``temperature`` of the epoch; and of the decision as it stands now ``size_bits``, and the share that ``leaves``."""
        decided = self._decision()
        said = {"temperature": self._temperature, "size_bits": float(self.size_bits(decided))}
        gone = sum(float(self._of_zero(one).sum()) for one in decided)
        said["leaves"] = gone / sum(choice.channels for choice in self.choices)
        self._temperature *= math.exp(-self._cooling)
        self._epoch += 1
        self._write()
        return said

    def size_bits(self, decided: list[Tensor] | None = None) -> int:
        """The bits of all weights that a decision leaves, exactly; of what ``finish`` decided if None."""
        return round(float(self._cost(self._decision() if decided is None else decided, "size")))

    def finish(self) -> Outcome:
        """The hard decision: ``bits`` of every filter by weight, and the filters that ``leaves`` names. The model runs on it."""
        self._decided = self._decision()
        if self._begun:
            self._write()
        bits: dict[str, Tensor] = {}
        numbers = torch.tensor(self._precisions)
        for layer in self.layers:
            chosen = layer.of_filters(self._decided).argmax(0).cpu()
            bits[f"{layer.name}.weight"] = numbers[chosen]
        leaves = {name: (one == 0).nonzero().flatten() for name, one in bits.items() if bool((one == 0).any())}
        return Outcome(bits=bits, leaves=leaves)

    def state_dict(self) -> dict[str, Any]:
        """The weights behind the grids, the logits with their momentum, the temperature and the epoch."""
        return {
            "behind": {name: one.clone() for name, one in self._behind.items()},
            "logits": [one.detach().clone() for one in self.logits],
            "sgd": copy.deepcopy(self._sgd.state_dict()),
            "temperature": self._temperature,
            "epoch": self._epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else, or of other layers or precisions.
        """
        try:
            behind, logits, sgd = dict(state["behind"]), list(state["logits"]), state["sgd"]
            temperature, epoch = float(state["temperature"]), int(state["epoch"])
            shapes = [one.shape for one in logits]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"this is no state of mixed_precision: {error!r} is missing or malformed") from None
        parameters = {name: one for layer in self.layers for name, one in layer.parameters().items()}
        fits = not behind or {name: one.shape for name, one in behind.items()} == {
            n: p.shape for n, p in parameters.items()
        }
        if shapes != [one.shape for one in self.logits] or not fits:
            raise ArtifactError("the state is of mixed_precision on other layers or with other precisions")
        with torch.no_grad():
            for own, one in zip(self.logits, logits, strict=True):
                own.copy_(one)
        self._behind = {name: one.to(parameters[name].device) for name, one in behind.items()}
        self._sgd.load_state_dict(sgd)
        self._temperature, self._epoch = temperature, epoch

    @torch.no_grad()
    def close(self) -> None:
        """Leave the weights behind the grids in the model; zeros for channels that were decided to have 0 bits."""
        if not self._begun:
            return
        for layer in self.layers:
            shares = None if self._decided is None else layer.of_filters(self._decided)
            for name, parameter in layer.parameters().items():
                parameter.copy_(self._behind[name])
                if shares is not None:
                    parameter[self._of_zero(shares).to(parameter.device) > 0.5] = 0
        self._begun = False

    def _decision(self) -> list[Tensor]:
        """One-hot shares: the likeliest number of every channel; of a choice the two that are likeliest to stay do."""
        decided = []
        for one in self.logits:
            values = one.detach().clone()
            if self._precisions[0] == 0:
                staying = values[1:].amax(0) - values[0]
                keep = staying.topk(min(KEPT, len(staying))).indices
                values[0, keep] = -math.inf
            decided.append(torch.zeros_like(values).scatter_(0, values.argmax(0, keepdim=True), 1.0))
        return decided

    def _first_logits(self, channels: int, can_leave: bool, start: Tensor) -> nn.Parameter:
        device = self.layers[0].weight.device
        logits = start.to(device)[:, None].repeat(1, channels)
        if not can_leave and self._precisions[0] == 0:
            logits[0] = -math.inf
        return nn.Parameter(logits)

    def _only(self, bits: int, channels: int) -> Tensor:
        shares = torch.zeros(len(self._precisions), channels, device=self.layers[0].weight.device)
        shares[self._precisions.index(bits)] = 1
        return shares

    def _of_zero(self, shares: Tensor) -> Tensor:
        """theta[0], zeros where 0 bits are no choice."""
        return shares[0] if self._precisions[0] == 0 else torch.zeros_like(shares[0])

    def _cost(self, shares: Sequence[Tensor], kind: Cost | None = None) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for layer in self.layers:
            zeros = [self._of_zero(shares[part.choice])[part.channels] for part in layer.inputs]
            inputs = alive(zeros, layer.whole_inputs)
            own = layer.of_filters(shares).double().cpu()
            total = total + cost_of(kind or self._kind, layer.size, own, inputs, self._precisions, self._table)
        return total

    def _effective(self, layer: SearchedLayer, behind: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """The weight, or the bias, that the mixture makes of what is behind it."""
        own = layer.of_filters(shares).to(behind)
        return mixed(behind, own, self._precisions) if behind.ndim > 1 else behind * (1 - self._of_zero(own))

    @torch.no_grad()
    def _write(self) -> None:
        shares = self.shares()
        for layer in self.layers:
            for name, parameter in layer.parameters().items():
                self._behind[name] = self._behind[name].to(parameter.device)
                parameter.copy_(self._effective(layer, self._behind[name], shares))
