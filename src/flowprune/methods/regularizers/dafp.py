"""DAFP's training: L1 on the scales of batch norms, as strong as a target of sparsity needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Training
from flowprune.engine.tracing import model_of
from flowprune.errors import checked_name
from flowprune.methods.importance.dependency_aware import dependency, kept_at, relative, sparsity_at, threshold_for
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.controlled import Controlled
from flowprune.methods.regularizers.strength.coupled_channels import coupled_model
from flowprune.methods.regularizers.strength.gammas import (
    batch_norm_gammas,
    outcome_of,
    scaled_channels,
)
from flowprune.methods.regularizers.strength.given_number import checked_number
from flowprune.methods.regularizers.strength.sparsity_gain import Lowering, SparsityGain


@REGISTRY.register("dafp")
class DAFP(Controlled[SparsityGain]):
    """Dependency aware filter pruning: L1 on the gammas, whose strength a controller moves until enough channels are unimportant.

    Zhao, Zhang, Han and Cheng, arXiv 2005.02634; importance and controllers are compared with the first author's code. After every
    epoch the sparsity is the share of the channels whose importance (``flowprune.importance.DAFP``, scale times what the layers
    behind make of it) is at most ``threshold`` of their layer's largest; see ``SparsityGain`` for what the strength then does.
    ``finish`` has the relative importance as ``scores``; what is at most a relative threshold, bisected so that the share
    ``target`` of the channels is, ``leaves``, but at least 8 channels of each layer stay. For a budget of MACs see the allocator
    ``relative_threshold``.

    The penalty acts on every batch norm (the authors: all three of a block), of grouped and depthwise convolutions, too. Linear
    layers and transformers have none: their channels are in ``left_out``; a network without batch norms is refused.

    Args:
        model: the network.
        inputs: example inputs, as ``flowprune.plan`` takes them.
        target: the sparsity to reach.
        delta: a step of the strength (published: 1e-5).
        threshold: below so much of the layer's largest a channel counts as unimportant (published: 0.02).
        controller: "rising", the first author's, or "always", that of StrucSpars (published there: delta 2e-6, 10 epochs of
            warm-up).
        warm_up: epochs without penalty.

    Raises:
        RecipeError: for options that are none, or no ``inputs``.
        UnknownNameError: for an unknown controller.
        ModelError: no batch norm scales channels that could leave.
    """

    name: ClassVar[str] = "dafp"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        target: float = 0.5,
        delta: float = 1e-5,
        threshold: float = 0.02,
        controller: Lowering = "rising",
        warm_up: int = 0,
    ) -> None:
        checked_name("controller", controller, ("rising", "always"))
        self._threshold = checked_number("threshold", threshold, "share of the channels", "(0, 1)")
        SparsityGain(target, 1, delta, controller, warm_up)  # complains about what is none
        coupled = coupled_model(model, inputs, self.name)
        self._classes, self.left_out = scaled_channels(model, coupled, self.name)
        self._model = model_of(model)
        self._gammas = batch_norm_gammas(model)
        coupling = coupled.coupling
        in_step = {
            coupling.groups[members[0]].name: [coupling.groups[m] for m in members] for members in coupling.classes
        }
        self._groups = [in_step[one.name] for one in self._classes]
        self._target = float(target)
        self._options: dict[str, Any] = {"delta": float(delta), "lowering": controller, "warm_up": int(warm_up)}

    def begin(self, training: Training) -> None:
        """Learn how many epochs there are.

        Raises:
            ArtifactError: the state that was loaded is of another training.
        """
        self.controlled_by(SparsityGain(self._target, max(1, training.epochs), **self._options))

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """The present strength times the sum of |gamma|; 0 before ``begin``."""
        strength = 0.0 if self._control is None else self._control.applied
        if not strength:
            return super().penalty(task_loss)
        return strength * torch.stack([gamma.abs().sum() for gamma in self._gammas.values()]).sum()

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """``strength`` of the epoch that ended, and the ``sparsity`` after it, by which it is adapted."""
        sparsity = sparsity_at(self._importance(), self._threshold)
        strength = 0.0 if self._control is None else self._control.applied
        if self._control is not None:
            self._control.epoch_end(sparsity)
        return {"strength": strength, "sparsity": sparsity}

    def finish(self) -> Outcome:
        """``scores`` and ``leaves``. No weight is changed."""
        layers = self._importance()
        threshold = threshold_for(layers, self._target)
        return outcome_of(self._classes, layers, lambda number: kept_at(layers[number], threshold))

    def _importance(self) -> list[Tensor]:
        return [relative(torch.stack(dependency(self._model, groups)).mean(0)) for groups in self._groups]
