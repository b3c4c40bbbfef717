"""The protocols of everything that is handed in from outside the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
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


class Parts(NamedTuple):
    """An array as a codec stores it."""

    header: dict[str, Any]
    """Plain JSON values: the codec's name, shape, number type, options, and a check sum over all of it."""
    arrays: dict[str, NDArray[Any]]
    """What is counted by ``Codec.bits``, by name."""


@runtime_checkable
class Codec(Protocol):
    """A way to store arrays, built as ``Method(**options)``. Everything that decoding needs is in the parts."""

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array of any shape."""
        ...

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit. Raises ArtifactError where the parts are damaged."""
        ...

    def bits(self, parts: Parts, table: bool = True) -> int:
        """How many bits the arrays of ``parts`` take, exactly; without the table that only speeds up decoding if not ``table``."""
        ...


@runtime_checkable
class Quantizer(Protocol):
    """Fewer values for weights, built as ``Method()``."""

    def fit(self, weights: Mapping[str, Tensor], *args: Any, **options: Any) -> Quantized:
        """Codes and tables for the weights, by parameter name; every quantizer has keyword options of its own."""
        ...


@runtime_checkable
class Quantized(Protocol):
    """What a quantizer made of weights: codes and tables."""

    def dequantize(self) -> dict[str, Tensor]:
        """The weights again, by parameter name, with the shapes and number types that were handed in."""
        ...


@runtime_checkable
class Replacement(Protocol):
    """Another module in a module's place, built as ``Method()``; what it puts there has ``effective_macs()``."""

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        ...

    def replace(self, module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        """A new module to stand in the place of ``module``, which is left as it is; keyword options are the replacement's own."""
        ...

    def restore(self, module: nn.Module) -> nn.Module | None:
        """A plain module with the function ``module`` has now; None where it is not one that ``replace`` made."""
        ...
