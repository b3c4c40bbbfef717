"""What a training loop asks of a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Regularizer(Protocol):
    """A penalty on a model under training, built as ``Method(model, **options)``.

    ``loss = criterion(model(x), y) + regularizer.penalty()`` must work as it stands. Whatever a penalty attaches to the model
    it takes off again in ``close()``. One whose strength changes over the epochs has ``strength`` and ``epoch_end`` beside, as
    ``flowprune.flow.FeatureFlow`` has; the training loop then calls the latter after every epoch.
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
