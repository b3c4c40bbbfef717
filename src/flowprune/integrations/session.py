"""The regularizers of one training in a loop that is not ours, told of every step, of every epoch and of the end.

Such a loop has checkpoints of its own, tells when an epoch ends, at times twice, and steps its optimizer where nobody is asked. So
what acts on gradients and weights hangs on the optimizer: just before it steps, and just after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, FlowpruneError, ModelError
from flowprune.integrations.methods_given import Methods, built
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.points.recording import TransientHook
from flowprune.methods.regularizers.feature_flow.unwrapping import call_inputs
from flowprune.methods.regularizers.strength.dead_share import dead_and_small_share, first_images
from flowprune.methods.regularizers.strength.step_hooks import before_step
from flowprune.methods.regularizers.together.regularizers import Regularizers


class Session:
    """One or several regularizers for the duration of one training.

    ::

        session = Session(model, {"wgsef": {"inputs": images[:2], "keep": 0.5}}, epochs=90)
        session.begin(optimizer, steps=len(loader))                     # after the model; checkpoint["regularizers"] is state=
        for epoch in range(90):
            for images, labels in loader:
                outputs = model(images)
                task_loss = criterion(outputs, labels)
                loss = task_loss + session.penalty(task_loss.detach(), batch=(images, labels), outputs=outputs)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            session.end_epoch(epoch + 1)
            checkpoint["regularizers"] = session.state_dict()
        session.finish()
        session.close()

    ``after_backward`` and ``after_step`` are called by the optimizer itself, whoever steps it: also where it steps by a closure,
    behind accumulated batches, and behind a gradient scaler (unscaled, and not at all where it skips the step). Clipping comes
    before them. What runs the model again within a step (``loss_again``) is refused there.

    Attributes:
        regularizers: those of this training.
        metrics: what was last said of an epoch, by name.
        outcomes: what those decided that decide, once the last epoch has ended.

    Args:
        model: the network, without wrappers.
        methods: regularizers by name with their options, or a function that builds them for the model.
        epochs: how many the training will have; None if nobody knows.
        macs_left: measures the share of the MACs that a cut of what is dead would leave, for those that want it.
        state: of an earlier session, to go on with.

    Raises:
        FlowpruneError: what the methods raise when they are built.
        ArtifactError: for a state that is none, or of other methods or options.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Methods,
        *,
        epochs: int | None = None,
        macs_left: Callable[[], float] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._model, self._epochs, self._ended, self._finished = model, epochs, 0, False
        self._handles: list[RemovableHandle] = []
        self._example: Any = None
        self._seen: Any = None
        self.metrics: dict[str, float] = {}
        self.outcomes: tuple[Outcome, ...] = ()
        own = built(model, methods, epochs)
        measures: dict[str, Callable[[], float]] = {"dead_share": self._dead_share}
        self.regularizers = Regularizers(own, measures if macs_left is None else {**measures, "macs_left": macs_left})
        if state is not None:
            try:
                self._load(state)
            except ArtifactError:
                self.close()
                raise
        if any(not isinstance(one, FeatureFlow) for one in own):
            self._handles.append(model.register_forward_hook(_Outputs(self._note), with_kwargs=True))

    @property
    def calibrated(self) -> bool:
        """Whether nobody needs the task loss any more."""
        return all(isinstance(one, FeatureFlow) and one.coefficients is not None for one in self.regularizers)

    def begin(self, optimizer: torch.optim.Optimizer, *, steps: int | None) -> None:
        """The first step is next; of a resumed training, the first one after it was resumed.

        Args:
            optimizer: the one that will step.
            steps: its steps in an epoch; None if nobody knows.

        Raises:
            RecipeError, ModelError: what the methods raise; and where one goes by a length that nobody knows.
        """
        if type(optimizer).__name__ == "AcceleratedOptimizer":  # its hooks are those of the one inside
            optimizer = optimizer.optimizer  # type: ignore[attr-defined]
        known = self._epochs is not None and steps is not None
        for one in self.regularizers:
            if known:
                one.begin(Training(optimizer, self._epochs or 0, steps or 0))
            elif _overrides(one, "begin") and not isinstance(one, FeatureFlow):
                raise ModelError(
                    f"{_name(one)} goes by the length of the training, and nobody knows it here; set the number of epochs, "
                    "and use data whose length is known"
                )
        if any(_overrides(one, "after_backward") for one in self.regularizers):
            self._handles.append(before_step(optimizer, self._before_step))
        if any(_overrides(one, "after_step") for one in self.regularizers):
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """The sum of the penalties on the forwards since the last call, 0-dim; arguments as of ``Regularizer.penalty``.

        What the model returned last is ``outputs`` where the loop does not know it.
        """
        seen, self._seen = self._seen, None
        return self.regularizers.penalty(task_loss, batch, seen if outputs is None else outputs)

    def forget(self) -> None:
        """What the model ran since the last penalty is no part of the training."""
        self._seen = None
        for one in self.regularizers:
            one.forget()

    def end_epoch(self, number: int) -> None:
        """The epoch of this number (from 1) has ended, unless that is known; ``metrics`` says what came of it.

        After the last one the methods decide, so that what is evaluated and saved next is what they decided on.
        """
        if number <= self._ended:
            return
        self._ended = number
        self.metrics = self.regularizers.epoch_end()
        if number == self._epochs:
            self.finish()

    def finish(self, again: bool = False) -> tuple[Outcome, ...]:
        """The last step was made: the hard decisions, once; ``again`` where other weights have been loaded since."""
        if again or not self._finished:
            self._finished = True
            self.outcomes = self.regularizers.finish()
        return self.outcomes

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings, tensors, lists and dictionaries: what a resumed training needs to go on exactly."""
        states = [one.state_dict() for one in self.regularizers]
        return {"methods": self._names(), "states": states, "epochs_ended": self._ended}

    def close(self) -> None:
        """Leave the model and the optimizer as they were, but for the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen = self._example = None
        for one in self.regularizers:
            one.close()

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            names, states, self._ended = list(state["methods"]), list(state["states"]), int(state["epochs_ended"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of regularizers in a training: {error!r}") from None
        if names != self._names():
            raise ArtifactError(
                f"the checkpoint is of a training with {', '.join(names)}, this one has {', '.join(self._names())}; use the same"
            )
        for one, own in zip(self.regularizers, states, strict=True):
            one.load_state_dict(own)

    def _names(self) -> list[str]:
        return [_name(one) for one in self.regularizers]

    def _before_step(self, optimizer: Any) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise ModelError(
                f"{', '.join(self._names())}: this fused optimizer takes scaled gradients, which nobody can edit; build it with "
                "fused=False"
            )
        self.regularizers.after_backward()

    def _after_step(self, optimizer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        for one in self.regularizers:
            one.after_step(optimizer, partial(_refuse, _name(one)))

    def _note(self, arguments: tuple[Any, ...], keywords: dict[str, Any], outputs: Any) -> None:
        if self._example is None:
            self._example = first_images(call_inputs(self._model, arguments, keywords))
        if self._model.training and torch.is_grad_enabled():
            self._seen = outputs

    def _dead_share(self) -> float:
        if self._example is None:
            raise ModelError("the share of dead filters is measured after the model's first forward; run it once")
        return dead_and_small_share(self._model, self._example)[0]


class FlowSession(Session):
    """A feature flow, by the arguments of ``FeatureFlow``; its state is that of the versions before there were others."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any], **rest: Any) -> None:
        super().__init__(model, {"ffr": options}, **rest)

    @property
    def flow(self) -> FeatureFlow:
        """The flow itself."""
        (flow,) = self.regularizers
        assert isinstance(flow, FeatureFlow)
        return flow

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {"flow": self.flow.state_dict(), "epochs_ended": self._ended}

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            flow, self._ended = state["flow"], int(state["epochs_ended"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of a feature flow in a training: {error!r}") from None
        self.flow.load_state_dict(flow)


class _Outputs(TransientHook):
    """Tells the session what went into the model and came out of it; copies of the model do not."""

    def __init__(self, note: Callable[[tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        self.note = note

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], outputs: Any) -> None:
        self.note(arguments, keywords, outputs)


def _overrides(one: Regularizer, hook: str) -> bool:
    return getattr(type(one), hook) is not getattr(Regularizer, hook)


def _name(one: Regularizer) -> str:
    return type(one).__name__


def _refuse(name: str) -> Tensor:
    raise FlowpruneError(
        f"{name} runs the model again within a step (loss_again), which only flowprune's own loop can do; train with fp.train"
    )
