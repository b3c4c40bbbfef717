"""A feature flow for the duration of one training in a loop that is not ours.

Such a loop has checkpoints of its own, and tells when an epoch ends, at times twice. Both are the same for every library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from flowprune.errors import ArtifactError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.strength.given_strength import strength_of


def check_options(options: Mapping[str, Any]) -> None:
    """Complain about what ``FeatureFlow`` would not take, before a training is set up.

    Raises:
        TypeError: for an argument it does not have.
        RecipeError: for a strength that is none.
    """
    inspect.signature(FeatureFlow).bind(None, **options)
    for name in ("gradient", "curvature"):
        strength_of(options.get(name), name)


class FlowSession:
    """A feature flow, the number of epochs that ended with it, and what there is to log.

    Args:
        model: the network to follow.
        options: the arguments of ``FeatureFlow``.
        epochs: how many the training will have, where the options do not say; None if nobody knows.
        macs_left: measures the share of the MACs that a cut of what is dead would leave, for ``target_macs``.
        state: of an earlier session, to go on with.

    Raises:
        FlowpruneError: what ``FeatureFlow`` raises.
        ArtifactError: for a state that is none, or of other options.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Mapping[str, Any],
        *,
        epochs: int | None,
        macs_left: Callable[[], float] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        options = dict(options)
        # Only where somebody asks for the epochs: a training that is made longer could not be resumed otherwise.
        steered = any(options.get(name) is not None for name in ("target_dead", "target_macs"))
        if (steered or options.get("schedule", "constant") != "constant") and options.get("epochs") is None:
            options["epochs"] = epochs
        self.flow = FeatureFlow(model, **options)
        self._macs_left = macs_left
        self._by_macs = options.get("target_macs") is not None
        self._ended = 0
        self.metrics: dict[str, float] = {}
        if state is not None:
            try:
                self._load(state)
            except ArtifactError:
                self.flow.close()
                raise

    def end_epoch(self, number: int) -> None:
        """Tell the flow that the epoch of this number (from 1) has ended, unless it knows; ``metrics`` says what came of it."""
        if number <= self._ended:
            return
        self._ended = number
        measured = self._macs_left() if self._macs_left is not None and self._by_macs else None
        found = self.flow.epoch_end(macs=measured)
        if len(found) > 1:  # a constant strength is nothing to log
            self.metrics = {f"flow_{name}": number for name, number in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: what a resumed training needs to go on exactly."""
        return {"flow": self.flow.state_dict(), "epochs_ended": self._ended}

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            flow, self._ended = state["flow"], int(state["epochs_ended"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of a feature flow in a training: {error!r}") from None
        self.flow.load_state_dict(flow)
