"""Micro-structured unification and pruning: weights are drawn to blocks that are zero or of one absolute value, by ADMM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, ModelError, RecipeError
from flowprune.methods.masks.micro_blocks import BlockShape, MicroStructure, projected, structure_of
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.given_number import checked_number
from flowprune.methods.regularizers.strength.pruned_weights import prunable_weights


@REGISTRY.register("microstructured")
class MicroStructured(Regularizer):
    """Micro-structured weight unification and pruning: blocks of p x q weights become zero, or of one absolute value.

    arXiv 2106.08301; from the published abstract, the equations are derived (``structure_of``). ADMM, with P the projection::

        loss = task + rho / 2 |W - Z + U|^2;     every so many steps:  Z = P(W + U),  U = U + W - Z,  rho <- larger, by equal
        factors

    When ``until`` of the training is over, W becomes P(W) and keeps that structure: zeros stay, a unified block has its signs and
    one value, which trains on (the mean of sign times weight after every step, so with the mean of the gradients). ``finish``
    gives the masks of the zero blocks and the ``weights``; the codec "micro_blocks" stores one value and the signs of a unified
    block.

    Acts on the weights of convolutions (grouped and depthwise ones, too), linear layers and attention; biases and norms are plain.

    Args:
        model: the network.
        inputs: not needed.
        p, q: a block has p filters and q weights of each, in the order of memory.
        prune: the share of each layer's blocks that is zeroed.
        unify: the share of the others that becomes one value.
        rho: at the start and in the end (published for such methods: 1e-4 to 1e-2).
        every: steps between two projections; None: a twentieth of the first stage.
        until: the share of the training that is ADMM.
        dense: names or patterns of weights that stay as they are; None: the first and the last layer.

    Raises:
        RecipeError: for options that are none.
        FlowpruneError: for sides of blocks that are none.
        ModelError: there is no weight to act on.
    """

    name: ClassVar[str] = "microstructured"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        p: int = 4,
        q: int = 4,
        prune: float = 0.5,
        unify: float = 0.6,
        rho: tuple[float, float] = (1e-4, 1e-2),
        every: int | None = None,
        until: float = 0.5,
        dense: Sequence[str] | None = None,
    ) -> None:
        for name, share in (("prune", prune), ("unify", unify)):
            checked_number(name, share, "share of the blocks")
        self._shape, self._prune, self._unify = BlockShape(p, q), float(prune), unify * (1.0 - prune)
        if len(rho) != 2 or not 0 < rho[0] <= rho[1]:
            raise RecipeError(
                f"rho={rho!r} is no start and end of a strength; give two numbers above 0, the larger last"
            )
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise RecipeError(f"every={every!r} is no number of steps; give at least 1, or leave it out")
        self._until = checked_number("until", until, "share of the training")
        self._rho, self._given_every = (float(rho[0]), float(rho[1])), every
        self._parameters = prunable_weights(model, dense, self.name)
        self._targets: dict[str, tuple[Tensor, Tensor]] = {}
        self._structures: dict[str, MicroStructure] = {}
        self._step = self._ends = self._every = 0

    def begin(self, training: Training) -> None:
        """Learn how long the first stage is, and project for the first time."""
        self._ends = max(1, int(self._until * training.total))
        self._every = self._given_every or max(1, self._ends // 20)
        if not self._targets:
            for name, weight in self._parameters.items():
                target = projected(weight.detach(), self._shape, self._prune, self._unify)
                self._targets[name] = target, torch.zeros_like(target)

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """``rho / 2 |W - Z + U|^2``, a 0-dim tensor; 0 in the second stage and before ``begin``."""
        if self._structures or not self._targets:
            return super().penalty(task_loss)
        terms = [(self._parameters[name] - z + u).square().sum() for name, (z, u) in self._targets.items()]
        return self._strength() / 2 * torch.stack(terms).sum()

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """Project where it is time to; hold the structure when the first stage is over.

        Raises:
            ModelError: before ``begin``.
        """
        if not self._every:
            raise ModelError("microstructured acts by the step: call begin(Training(optimizer, epochs, steps)) first")
        self._step += 1
        if self._step < self._ends:
            if self._step % self._every == 0:
                for name, (_, u) in self._targets.items():
                    weight = self._parameters[name].detach()
                    z = projected(weight + u, self._shape, self._prune, self._unify)
                    self._targets[name] = z, u + weight - z
            return
        self._hold()

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength``: rho; ``distance``: how far the weights are from their projection, over their length."""
        apart = total = 0.0
        for weight in self._parameters.values():
            near = projected(weight.detach(), self._shape, self._prune, self._unify)
            apart += float((weight.detach() - near).double().square().sum())
            total += float(weight.detach().double().square().sum())
        return {"strength": self._strength(), "distance": (apart / max(total, 1e-30)) ** 0.5}

    @torch.no_grad()
    def finish(self) -> Outcome:
        """The structure, carried out: ``masks`` of the blocks that are not zero, ``weights``."""
        self._hold()
        masks = {}
        for name, weight in self._parameters.items():
            zero = self._structures[name].pruned[:, None].expand(-1, self._shape.p * self._shape.q)
            masks[name] = ~self._shape.weight(zero.contiguous(), weight.shape)
        return Outcome(masks=masks, weights={name: one.detach().clone() for name, one in self._parameters.items()})

    def state_dict(self) -> dict[str, Any]:
        """The step, Z and U of every weight, and the structures once they are fixed."""
        return {
            "step": self._step,
            "targets": {name: [z.clone(), u.clone()] for name, (z, u) in self._targets.items()},
            "structures": {name: [one.pruned, one.unified, one.signs] for name, one in self._structures.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else, or of other weights.
        """
        try:
            step = int(state["step"])
            targets = {str(name): (z, u) for name, (z, u) in state["targets"].items()}
            structures = {str(name): MicroStructure(*parts) for name, parts in state["structures"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of microstructured: {error!r} is missing or malformed") from None
        own = {name: weight.shape for name, weight in self._parameters.items()}
        if targets and {name: z.shape for name, (z, _) in targets.items()} != own:
            raise ArtifactError("the state is of microstructured on other weights")
        self._step, self._structures = step, structures
        self._targets = {
            name: (z.to(self._parameters[name]), u.to(self._parameters[name])) for name, (z, u) in targets.items()
        }

    def _strength(self) -> float:
        first, last = self._rho
        grown: float = first * (last / first) ** min(1.0, self._step / max(1, self._ends))
        return grown

    def _hold(self) -> None:
        for name, weight in self._parameters.items():
            if name not in self._structures:
                self._structures[name] = structure_of(weight, self._shape, self._prune, self._unify)
            weight.copy_(self._structures[name].held(weight.detach(), self._shape))
