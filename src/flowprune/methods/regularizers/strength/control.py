"""How strong the penalty is over the epochs: a schedule, or a controller that steers a measured share to a target.

The controller's conditions are those that filter-pruning code around Dependency Aware Filter Pruning (arXiv 2005.02634) uses once
an epoch: strengthen while the share is below the target and grows too slowly to get there in the epochs left; weaken once it is
there. Filters go on dying for many epochs after the strength has been lowered, and none comes back, so here it is weakened as soon
as the share would pass the target within a tenth of the epochs if it went on growing as it lately did. A step up adds the strength
the user gave, and a step down halves what there is.

A filter that has become small goes on shrinking by weight decay alone, whatever the penalty does then. So where that share is
known, the filters below ten times the threshold count as well: no step up while enough of them are on their way, and a step down
when they are too many, as long as they do die.

Two things keep that from doing harm. The strength has a bound, so a target that cannot be reached does not ruin the training. And
whenever the controller turns from lowering to raising again, its steps become half as large, and it looks half as far ahead, so a
share that answers at once settles instead of swinging for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flowprune.errors import ArtifactError, RecipeError

Schedule = Literal["constant", "warm-up", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "warm-up", "linear")
WARM_UP = 0.1
"""The share of the epochs in which "warm-up" rises, and in which a controller leaves the strength alone."""

AHEAD = 0.1
"""So far ahead, as a share of the epochs, the controller looks at first: about as long as filters go on dying that a strong penalty
has made small."""
LATELY = 4
"""Over so many epochs it averages the share's growth: that of one epoch is often a single filter, or none."""

LARGEST = 20.0
"""The bound of a controller's strength: with the usual 5 % a term then weighs as much as the task loss it was calibrated by."""
SMALLEST_STEP = 1 / 16
"""The steps stay at least so large, as shares of the strength: what the learning rate's fall changes must still be answered."""
PATIENCE = 3
"""After so many steps down in a row the next ones grow again: filters that are dead stay dead, and more are dying."""


@dataclass
class Control:
    """The state of a schedule or controller.

    Attributes:
        schedule: how the strength goes over the epochs where there is no target.
        epochs: of the training; None where neither a schedule nor a target needs it.
        target: the share to reach, in [0, 1]; None for no controller.
        epoch: how many have ended.
        strength: what the controller multiplies the coefficients with.
        shares: the last ones measured, as many as the growth is averaged over and one more.
        small: likewise, the shares of filters that are dead or small already; empty where nobody measures them.
        step: how far a step goes: up by so much of the strength given (from the first turn on, of the present strength, unless that
            is next to nothing), down by a division by 1 + step. It also scales how far the controller looks ahead.
        lowered: how many steps down in a row were the last ones.
    """

    schedule: Schedule = "constant"
    epochs: int | None = None
    target: float | None = None
    epoch: int = 0
    strength: float = 1.0
    shares: tuple[float, ...] = ()
    small: tuple[float, ...] = ()
    step: float = 1.0
    lowered: int = 0

    def __post_init__(self) -> None:
        needed = self.target is not None or self.schedule != "constant"
        if needed and (not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1):
            raise RecipeError("a target or a schedule needs the number of epochs of the training: epochs=100, say")
        if self.target is not None and not 0 < self.target < 1:
            raise RecipeError("a target is a share between 0 and 1, and neither of them")
        if self.target is not None and self.schedule != "constant":
            raise RecipeError("a target sets the strength by itself; leave schedule= out")

    @property
    def factor(self) -> float:
        """What the coefficients are multiplied with in the present epoch."""
        if self.target is not None or self.schedule == "constant" or self.epochs is None:
            return self.strength
        rising = max(1, round(WARM_UP * self.epochs)) if self.schedule == "warm-up" else self.epochs
        return min(1.0, (self.epoch + 1) / rising)

    def epoch_end(self, share: float | None, small: float | None = None) -> None:
        """Count an epoch and, with a target, adapt the strength to what was measured after it.

        Args:
            share: what is steered to the target.
            small: the share of filters that are dead or on their way there, if ``share`` is that of the dead ones.
        """
        self.epoch += 1
        if self.target is None or self.epochs is None or share is None:
            return
        self.shares = (*self.shares, share)[-LATELY - 1 :]
        if small is not None:
            self.small = (*self.small, small)[-LATELY - 1 :]
        if self.epoch <= WARM_UP * self.epochs:
            return
        left = max(1, self.epochs - self.epoch)
        horizon = min(left, max(1.0, self.step * AHEAD * self.epochs))
        growing = _growth(self.shares)
        coming = self.small[-1] + _growth(self.small) * horizon if self.small and growing else 0.0
        if share >= self.target or max(share + growing * horizon, coming) > self.target:
            self._lower()
        elif growing < (self.target - share) / left and not self._on_their_way(left):
            self._raise()

    def _on_their_way(self, left: int) -> bool:
        """Whether the small filters become enough in the epochs that are left, as fast as they lately became more."""
        missing = self.target - self.small[-1] if self.small and self.target is not None else 0.0
        return missing > 0 and _growth(self.small) >= missing / left

    def _lower(self) -> None:
        if self.lowered >= PATIENCE:
            self.step = min(1.0, 2 * self.step)
        self.strength /= 1 + self.step
        self.lowered += 1

    def _raise(self) -> None:
        if self.lowered:
            self.step, self.lowered = max(SMALLEST_STEP, self.step / 2), 0
        unit = 1.0 if self.step == 1 else max(self.step, self.strength)
        self.strength = min(LARGEST, self.strength + self.step * unit)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {**asdict(self), "shares": list(self.shares), "small": list(self.small)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            ArtifactError: if it is something else, or of another schedule or target.
        """
        own = self.state_dict()
        fixed = ("schedule", "epochs", "target")
        if not isinstance(state, Mapping) or set(state) != set(own):
            raise ArtifactError("this is no state of a flow's schedule or controller")
        if any(state[name] != own[name] for name in fixed):
            given = {name: state[name] for name in fixed}
            raise ArtifactError(
                f"the state is of a flow with {given}, this one has { {name: own[name] for name in fixed} }"
            )
        try:
            self.epoch, self.strength = int(state["epoch"]), float(state["strength"])
            self.shares = tuple(float(share) for share in state["shares"])
            self.small = tuple(float(share) for share in state["small"])
            self.step, self.lowered = float(state["step"]), int(state["lowered"])
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of a flow's schedule or controller: {error}") from None


def _growth(shares: tuple[float, ...]) -> float:
    """By how much these shares grew an epoch, on average; 0 where they fell."""
    return max(0.0, shares[-1] - shares[0]) / max(1, len(shares) - 1)
