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


@dataclass(frozen=True)
class Training:
    """What a regularizer is told of the training it takes part in.

    Attributes:
        optimizer: the one that will step; its parameter groups hold the learning rate of the present step.
        epochs: passes over the training images, of the whole training.
        steps: steps of the optimizer in one of them.
    """

    optimizer: torch.optim.Optimizer
    epochs: int
    steps: int

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps


@dataclass(frozen=True)
class Outcome:
    """What a method decided in the end; None where it says nothing.

    Attributes:
        leaves: name of a weight -> int64 numbers of its filters (its outputs) that are to leave.
        scores: name of a weight -> float64 ``[filters]``, what each filter is worth; higher stays longer.
        masks: name of a parameter -> bool of its shape, False where a weight is zero for good.
        bits: name of a parameter -> int64, bits of its values, one number or one a filter.
        replacements: dotted path of a module -> name of what is to take its place.
        weights: name of a parameter -> its values.
    """

    leaves: Mapping[str, Tensor] | None = None
    scores: Mapping[str, Tensor] | None = None
    masks: Mapping[str, Tensor] | None = None
    bits: Mapping[str, Tensor] | None = None
    replacements: Mapping[str, str] | None = None
    weights: Mapping[str, Tensor] | None = None


class Regularizer:
    """What acts on a model while it is trained, built as ``Method(model, *, inputs=None, **options)``.

    Every hook does nothing by itself; a method overrides those it needs. A training loop calls them so::

        method.begin(Training(optimizer, epochs, steps))      # after load_state_dict, where the training is resumed
        for every epoch:
            for every batch:
                outputs = model(inputs)
                task_loss = criterion(outputs, targets)
                loss = task_loss + method.penalty(task_loss.detach(), batch=(inputs, targets), outputs=outputs)
                optimizer.zero_grad(); loss.backward()
                method.after_backward()
                optimizer.step()
                method.after_step(optimizer, loss_again)
            method.epoch_end({"macs_left": 0.7})
        outcome = method.finish()
        method.close()

    Of a method that is a penalty and nothing else, ``loss = criterion(model(x), y) + method.penalty()`` is all of that.
    Whatever a method attaches to the model it takes off again in ``close()``.

    Attributes:
        wants: names of what ``epoch_end`` is to be told; our loop knows "dead_share" (of the filters) and "macs_left" (the share
            of the MACs that a cut of what is dead would leave, where it was given a measure of that).
    """

    wants: tuple[str, ...] = ()

    def begin(self, training: Training) -> None:
        """The first step is next; of a resumed training, the first one after it was resumed."""

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """What is added to the task loss of this step, a 0-dim tensor.

        Args:
            task_loss: its value, for strengths given as shares of it; no gradient goes through it.
            batch: what the model was given, and the targets.
            outputs: what it returned, with gradients.
        """
        return torch.zeros(()) if task_loss is None else task_loss.new_zeros(())

    def after_backward(self) -> None:
        """The gradients of this step are there (the same in all processes): edit them, ``parameter.grad``."""

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """The optimizer has stepped: proximal steps, shrinkage, masks that are held.

        Args:
            optimizer: the one that stepped.
            loss_again: runs the model on this step's batch once more, in training mode, and returns the task loss with
                gradients, for methods that look ahead. It moves the statistics of batch norms once more, too.
        """

    def forget(self) -> None:
        """Another method has run the model beside the training's own steps: drop what was seen of it."""

    def epoch_end(self, measured: Mapping[str, float] | None = None) -> dict[str, float]:
        """An epoch has ended; ``measured`` has what ``wants`` names. What is returned is written down with the epoch."""
        return {}

    def finish(self) -> Outcome | None:
        """The last step was made: the hard decision, carried out on the model where that leaves zeros.

        It comes before the last evaluation, and once more where a training that had ended is resumed; then it must say the same.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings, tensors, lists and dictionaries: what a resumed training needs to go on bit for bit."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave; raises an ``ArtifactError`` for the state of another method."""

    def close(self) -> None:
        """Leave the model as it was, but for its weights."""


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
