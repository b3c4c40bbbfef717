"""What the regularizers share whose only state is a controller, made when the training begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import ArtifactError
from flowprune.methods.regularizers.strength.control import Control
from flowprune.methods.regularizers.strength.sparsity_gain import SparsityGain

Controller = TypeVar("Controller", Control, SparsityGain)


class Controlled(Regularizer, Generic[Controller]):
    """A regularizer whose ``begin`` calls ``controlled_by`` with a controller for so many epochs."""

    name: ClassVar[str]
    _control: Controller | None = None
    _loaded: Mapping[str, Any] | None = None

    def controlled_by(self, control: Controller) -> None:
        """Take a controller, with the state that was loaded.

        Raises:
            ArtifactError: the state that was loaded is of another training.
        """
        if self._loaded is not None:
            control.load_state_dict(self._loaded)
        self._control = control

    def state_dict(self) -> dict[str, Any]:
        """Where the controller stands; all else is in the weights."""
        return {} if self._control is None else {"control": self._control.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, before ``begin``.

        Raises:
            ArtifactError: if it is something else.
        """
        if not isinstance(state, Mapping) or set(state) - {"control"}:
            raise ArtifactError(f"this is no state of {self.name}")
        self._loaded = state.get("control")
        if self._control is not None and self._loaded is not None:
            self._control.load_state_dict(self._loaded)
