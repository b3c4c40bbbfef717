"""The protocols of everything that is handed in from outside the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
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


class WeightScore(Protocol):
    """What the single weights of a model are worth."""

    def __call__(self, model: nn.Module, batches: Iterable[Any] | None = None) -> dict[str, Tensor]:
        """Score every weight that a mask may take.

        Args:
            model: the model; it must be left exactly as it was.
            batches: calibration batches, for criteria that look at data.

        Returns:
            Dotted name of the parameter -> a tensor of its shape, on its device, in the model's order; higher is worth more,
            never NaN.
        """
        ...


Keep = float | Mapping[str, float]
"""What a mask keeps: a share of all weights, above 0 and at most 1; or the share of each parameter, from 0 to 1, by name."""


class Mask(Protocol):
    """Which weights are zero for good."""

    def select(self, scores: Mapping[str, Tensor], keep: Keep | None = None) -> dict[str, Tensor]:
        """Choose the weights that stay; may be called at every step of a training.

        Args:
            scores: of every parameter, as a ``WeightScore`` gives them. A fixed pattern reads their shapes only, so the weights
                themselves will do.
            keep: never more than this is kept. A fixed pattern takes None, or what it keeps anyway.

        Returns:
            Name of the parameter -> a boolean tensor of its shape, on its device: True where the weight stays.

        Raises:
            BudgetError: it cannot keep that; the nearest it can is named.
        """
        ...


Levels = NDArray[np.int64]
"""[units]: how many steps each unit loses."""


@dataclass(frozen=True)
class AllocationProblem:
    """Units that can lose something step by step, and how much may be left of all of them together.

    A unit is a tensor of weights, which loses a weight a step, or a class of coupled groups, which loses a channel of each of its
    groups (or, where attention heads and widths are tied, a few).

    Attributes:
        units: their names.
        scores: for each unit, [steps] in ascending order: what leaves in each of its steps is worth so much.
        limits: [units]: how many steps each may lose.
        steps: [units]: the smallest step that leads from one allowed level to another; ones, unless widths are rounded.
        count: the exact count (of non-zero weights, MACs, parameters) that is left at such levels.
        target: the largest count allowed.
        counted: what is counted, for messages.
        rounding: the allowed levels nearest to such levels.
        probe: a copy of the network, in evaluation mode, that has really lost so much; to be looked at and thrown away.
        costs: [units]: by how much each step lowers the count, where the costs of the units add up; None where they do not (the
            MACs of a layer depend on both of its widths).
        shapes: of the units that are tensors; None where they are classes of groups.
        trained: the network at such levels, after so many epochs of training; None where no study hands it in.
    """

    units: tuple[str, ...]
    scores: tuple[NDArray[np.float64], ...]
    limits: Levels
    steps: Levels
    count: Callable[[Levels], int]
    target: int
    counted: str
    rounding: Callable[[Levels], Levels]
    probe: Callable[[Levels], nn.Module]
    costs: Levels | None = None
    shapes: tuple[tuple[int, ...], ...] | None = None
    trained: Callable[[Levels, int], nn.Module] | None = None

    @property
    def sizes(self) -> Levels:
        """[units]: how many steps there are in each unit, whatever its limit."""
        return np.array([len(scores) for scores in self.scores], dtype=np.int64)


class Allocator(Protocol):
    """How much leaves where.

    It may carry the class attribute ``needs_data`` (False where absent): its constructor then takes ``batches=``.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Levels that are allowed, and at which no more is left than the target.

        Raises:
            BudgetError: it does not work on such units, or nothing it can choose meets the target.
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

    def fit(self, weights: Mapping[str, Tensor], **options: Any) -> Quantized:
        """Codes and tables for the weights, by parameter name."""
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

    def replace(self, module: nn.Module, **options: Any) -> nn.Module:
        """A new module to stand in the place of ``module``, which is left as it is."""
        ...

    def restore(self, module: nn.Module) -> nn.Module | None:
        """A plain module with the function ``module`` has now; None where it is not one that ``replace`` made."""
        ...
