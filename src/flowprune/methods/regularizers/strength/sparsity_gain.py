"""Controllers that raise a strength once an epoch while a sparsity grows too slowly to reach its target in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flowprune.errors import ArtifactError, RecipeError

Lowering = Literal["rising", "always"]


@dataclass
class SparsityGain:
    """A strength and what it was told of the sparsity; the two forms that code around DAFP (arXiv 2005.02634) uses.

    With s_e the sparsity measured after epoch e of E, s* the target and the gain s_e - s_{e-1}, after every epoch::

        s_e < s* and gain < (s* - s_e) / (E - e):   strength += delta
        too sparse:                                 strength -= delta, not below 0

    "rising", the first author's: too sparse is s_e > s* while the gain is above 0; it starts at 0. "always", StrucSpars': too
    sparse is s_e >= s*; it starts at delta, and in the first ``warm_up`` epochs nothing is applied or changed. Both compared with
    that code.

    Attributes:
        target: s*.
        epochs: E.
        delta: a step of the strength.
        lowering: which form.
        warm_up: epochs without strength.
        strength: the present one, before the warm-up is taken into account.
        epoch: how many have ended.
        sparsity: what was measured last, before the first epoch 0.
    """

    target: float
    epochs: int
    delta: float
    lowering: Lowering = "rising"
    warm_up: int = 0
    strength: float = 0.0
    epoch: int = 0
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise RecipeError(
                f"a target of {self.target!r} is no sparsity; give a share between 0 and 1, and neither of them"
            )
        if not self.delta > 0 or self.epochs < 1 or self.warm_up < 0:
            raise RecipeError("a controller needs a step above 0, at least 1 epoch, and no warm-up below 0")
        if self.lowering == "always" and self.epoch == 0 and not self.strength:
            self.strength = self.delta

    @property
    def applied(self) -> float:
        """The strength of the epoch that is next."""
        return self.strength if self.epoch >= self.warm_up else 0.0

    def epoch_end(self, sparsity: float) -> None:
        """Adapt the strength to what was measured after the epoch."""
        gain = sparsity - self.sparsity
        if self.epoch >= self.warm_up:
            if sparsity < self.target:
                if gain < (self.target - sparsity) / max(1, self.epochs - self.epoch):
                    self.strength += self.delta
            elif self.lowering == "always" or (sparsity > self.target and gain > 0):
                self.strength = max(0.0, self.strength - self.delta)
        self.sparsity = sparsity
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            ArtifactError: it is something else, or of another target, step or training.
        """
        own, moving = self.state_dict(), ("strength", "epoch", "sparsity")
        if set(state) != set(own) or any(state[name] != own[name] for name in own if name not in moving):
            raise ArtifactError("the state is of a controller with another target, step or number of epochs")
        self.strength, self.epoch, self.sparsity = (
            float(state["strength"]),
            int(state["epoch"]),
            float(state["sparsity"]),
        )
