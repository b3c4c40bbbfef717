"""What acts during training, what it is told, and what it decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Training:
    """What a regularizer is told of the training it takes part in.

    In a loop of one's own ``Training(optimizer, steps=len(loader) * epochs)`` says enough.

    Attributes:
        optimizer: the one that will step; its parameter groups hold the learning rate of the present step.
        epochs: passes over the training images, of the whole training.
        steps: steps of the optimizer in one of them.
        rates: the learning rate of a step, from 0 and over all epochs; None where nobody says, and then it counts as that which
            the parameter groups begin with.

    Example:
        >>> import torch, flowprune as fp
        >>> model = fp.models.create("resnet8", width=4)
        >>> training = fp.Training(torch.optim.SGD(model.parameters(), lr=0.1), steps=1000)
        >>> training.total
        1000
    """

    optimizer: torch.optim.Optimizer
    epochs: int = 1
    steps: int = 1
    rates: Callable[[int], float] | None = None

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self.close()
