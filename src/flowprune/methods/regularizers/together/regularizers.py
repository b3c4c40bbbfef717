"""The regularizers of one training, called as one: in the order they were given, each told what it wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, counted


@runtime_checkable
class Penalty(Protocol):
    """A penalty that knows no other hook, as all were in version 0.1."""

    def penalty(self, task_loss: Tensor | None = None) -> Tensor:
        """What is added to the task loss of this step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs to go on exactly."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over such a state."""
        ...


class _OnlyPenalty(Regularizer):
    """Such a penalty with the hooks that it lacks."""

    def __init__(self, penalty: Penalty) -> None:
        self._penalty = penalty

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        return self._penalty.penalty(task_loss)

    def state_dict(self) -> dict[str, Any]:
        return self._penalty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._penalty.load_state_dict(state)


Given = Regularizer | Penalty | Sequence[Regularizer | Penalty] | None
"""None, one or several, as a training loop takes them."""


class Regularizers:
    """None, one or several regularizers.

    Args:
        given: of this training; the order is that of their calls.
        measures: name -> measures what ``epoch_end`` may want to be told.
    """

    def __init__(self, given: Given, measures: Mapping[str, Callable[[], float]]) -> None:
        several = () if given is None else given if isinstance(given, Sequence) else (given,)
        self._each = [one if isinstance(one, Regularizer) else _OnlyPenalty(one) for one in several]
        self._measures = dict(measures)

    def __bool__(self) -> bool:
        return bool(self._each)

    def __iter__(self) -> Iterator[Regularizer]:
        return iter(self._each)

    @property
    def several(self) -> list[str] | None:
        """The names of their classes, where there are several: a checkpoint's states belong to them."""
        return [type(one).__name__ for one in self._each] if len(self._each) > 1 else None

    def begin(self, training: Training) -> None:
        """The first step is next."""
        for one in self._each:
            one.begin(training)

    def penalty(self, task_loss: Tensor | None, batch: tuple[Tensor, Tensor] | None, outputs: Any) -> Tensor:
        """The sum of the penalties, a 0-dim tensor."""
        if not self._each:
            return torch.zeros(()) if task_loss is None else task_loss.new_zeros(())
        first, *others = (one.penalty(task_loss, batch=batch, outputs=outputs) for one in self._each)
        for other in others:
            first = first + other
        return first

    def after_backward(self) -> None:
        """The gradients are there."""
        for one in self._each:
            one.after_backward()

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        """The optimizer has stepped."""

        def beside() -> Tensor:
            loss = loss_again()
            for one in self._each:  # else a flow would count this forward, too, but not after a resume
                one.forget()
            return loss

        for one in self._each:
            one.after_step(optimizer, beside)

    def epoch_end(self) -> dict[str, float]:
        """What they say of the epoch that ended. Where two say different things by one name, the second's is numbered."""
        wanted = {name for one in self._each for name in one.wants if name in self._measures}
        measured = {name: self._measures[name]() for name in sorted(wanted)}
        record: dict[str, float] = {}
        for number, one in enumerate(self._each, start=1):
            said = one.epoch_end({name: measured[name] for name in one.wants if name in measured})
            record |= {f"{name}_{number}" if name in record else name: value for name, value in said.items()}
        return record

    def finish(self) -> tuple[Outcome, ...]:
        """The hard decisions of those that make one."""
        return tuple(outcome for one in self._each if (outcome := one.finish()) is not None)

    def state_dict(self) -> dict[str, Any] | list[dict[str, Any]] | None:
        """The state of one, a list of those of several, None of none."""
        states = [one.state_dict() for one in self._each]
        return states if len(states) > 1 else states[0] if states else None

    def load_state_dict(self, state: Any) -> None:
        """Take over such a state.

        Raises:
            ArtifactError: it is of another number of regularizers, or what one of them raises.
        """
        states = state if isinstance(state, list) else [] if state is None else [state]
        if len(states) != len(self._each):
            raise ArtifactError(
                f"the checkpoint is of a training with {counted(len(states), 'regularizer')}, this one has {len(self._each)}; use "
                "the same, or another folder"
            )
        for one, own in zip(self._each, states, strict=True):
            one.load_state_dict(own)
