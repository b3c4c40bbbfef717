"""The protocols of everything that is handed in from outside the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


class Importance(Protocol):
    """What the channels of a model are worth.

    A criterion may also carry the class attributes ``needs_data``, ``needs_labels`` and ``needs_gradients`` (all False
    where absent), so that a command line can tell what to hand to its constructor.
    """

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """Score every channel of every group.

        Args:
            model: the dense model, in whatever mode its owner left it; it must be left exactly so (mode, hooks, random
                state).
            inputs: the example inputs the groups were traced with (a tensor, a tuple of tensors or a dict of them).
            groups: the coupled groups, each a set of parameter slices that can only leave together.

        Returns:
            One float64 tensor ``[channels]`` on the CPU for each group, in the order given; higher is worth more, never
            NaN. ``inf`` says that this criterion cannot judge the channel, which is then the last to leave.
        """
        ...


@runtime_checkable
class Regularizer(Protocol):
    """A penalty on a model under training, built as ``Method(model, **options)``.

    ``loss = criterion(model(x), y) + regularizer.penalty()`` must work as it stands. Whatever a penalty attaches to the model
    it takes off again in ``close()``. One whose strength changes over the epochs has ``strength`` and ``epoch_end`` beside, as
    ``flowprune.FeatureFlow`` has; the training loop then calls the latter after every epoch.
    """

    def penalty(self, task_loss: Tensor | None = None) -> Tensor:
        """The penalty on the forwards since the last call, a 0-dim tensor; ``task_loss`` is for strengths given as shares of it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries: what a resumed training needs to go on exactly."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        ...

    def close(self) -> None:
        """Leave the model as it was."""
        ...
