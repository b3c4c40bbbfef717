"""Feature flow regularization in a Hugging Face ``Trainer``: a mix-in that adds the penalty where the loss is computed."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowprune.errors import MissingLibraryError
from flowprune.integrations.session import FlowSession, check_options
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.unwrapping import unwrapped

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        _library = importlib.import_module("transformers")
    except ModuleNotFoundError as missing:
        if missing.name != "transformers":
            raise
        raise MissingLibraryError(
            "flowprune.integrations.transformers needs transformers: pip install 'flowprune[transformers]'"
        ) from None
    Trainer, TrainerCallback = _library.Trainer, _library.TrainerCallback

STATE = "FeatureFlow"
"""Under this name the flow's state lies among the ``stateful_callbacks`` of a checkpoint's ``trainer_state.json``."""


class FeatureFlowMixin:
    """Makes any ``Trainer`` train with the penalty of a ``FeatureFlow``: ``class Mine(FeatureFlowMixin, Seq2SeqTrainer)``.

    Whatever computes the loss below it (the model, ``compute_loss_func``, label smoothing, a ``compute_loss`` of your own) stays as
    it is; in training the penalty is added, always as the mean over the accumulated batches. Evaluation takes no part. The flow is
    there from the beginning of ``train()`` to its end, also if that is an exception; then the model is left without hooks.

    A percentage is one of the loss as the trainer minimises it. That matters where a model takes ``num_items_in_batch`` and makes
    nothing of it (the convolutional networks of transformers 5.23): the trainer then adds the losses of accumulated batches up
    undivided. A coefficient stays what it is, and counts less beside such a sum.

    The ``loss`` that the trainer logs is all that is minimised, penalty included; ``flow_penalty`` beside it is the mean penalty of
    a batch in this process. With a target ``flow_strength`` (in force in the last epoch) and ``flow_dead_share`` or
    ``flow_macs_left`` (after it) are logged too.

    The flow's state is in every checkpoint, and ``train(resume_from_checkpoint=...)`` goes on with the same strength.

    Args:
        args, kwargs: of the trainer.
        flow: the arguments of ``FeatureFlow``, as in ``flow={"gradient": "5%", "curvature": "5%"}``. ``epochs`` is
            ``num_train_epochs`` where it is not given.
        macs_left: for ``target_macs``: measures, once an epoch, the share of the MACs that a cut of what is dead would leave.

    Raises:
        RecipeError: for a strength that is none.
        ModelError: when a training begins, for a model that is sharded or behind DataParallel; and what ``FeatureFlow`` raises.
        ArtifactError: when a training is resumed with other strengths or another schedule.
    """

    def __init__(
        self, *args: Any, flow: Mapping[str, Any], macs_left: Callable[[], float] | None = None, **kwargs: Any
    ) -> None:
        check_options(flow)
        self._flow_options, self._macs_left = dict(flow), macs_left
        self._session: FlowSession | None = None
        self._penalties: Tensor | float = 0.0
        self._penalized = 0
        super().__init__(*args, **kwargs)
        self.add_callback(_Epochs(self))  # type: ignore[attr-defined]

    @property
    def feature_flow(self) -> FeatureFlow | None:
        """The flow of the training under way; None before and after."""
        return None if self._session is None else self._session.flow

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and leave the model as it was."""
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._close_flow()

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, and in training the penalty with it."""
        compute = super().compute_loss  # type: ignore[misc]
        if self._session is None or not model.training or not torch.is_grad_enabled():
            return compute(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        flow = self._session.flow
        flow.forget()
        loss, outputs = compute(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        # A mean over one batch is divided by the trainer after this; a loss that was divided by the items of all accumulated
        # batches is one batch's part of their mean, and the penalty has to become one.
        batches = getattr(self, "current_gradient_accumulation_steps", 1) if self._is_divided(num_items_in_batch) else 1
        penalty = flow.penalty(loss.detach() * batches if flow.coefficients is None else None)
        self._penalties, self._penalized = self._penalties + penalty.detach(), self._penalized + 1
        loss = loss + (penalty / batches).to(loss.device)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the penalty beside the training loss."""
        if "loss" in logs and self._penalized:
            logs["flow_penalty"] = float(self._penalties) / self._penalized
            self._penalties, self._penalized = 0.0, 0
            if self._session is not None:
                logs.update(self._session.metrics)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _is_divided(self, num_items_in_batch: Any) -> bool:
        trainer: Any = self
        said = getattr(trainer, "loss_is_scaled_for_ga", None)
        if said is not None:
            return bool(said)
        by_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_items or trainer.compute_loss_func is not None)

    def _open_flow(self, epochs: int | None, state: Mapping[str, Any] | None) -> None:
        self._close_flow()
        trainer: Any = self
        unwrapped(trainer.model_wrapped)  # complains about DataParallel and sharded models
        options = self._flow_options
        self._session = FlowSession(trainer.model, options, epochs=epochs, macs_left=self._macs_left, state=state)

    def _close_flow(self) -> None:
        if self._session is not None:
            self._session.flow.close()
            self._session = None
        self._penalties, self._penalized = 0.0, 0


class FeatureFlowTrainer(FeatureFlowMixin, Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with feature flow regularization.

    ::

        trainer = FeatureFlowTrainer(model, args, train_dataset=images, flow={"gradient": "5%", "curvature": "5%"})
        trainer.train()

    ``FeatureFlowMixin`` says the rest.
    """


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the flow when a training begins and an epoch ends, and puts its state where the next checkpoint takes it from."""

    def __init__(self, trainer: FeatureFlowMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epochs = math.ceil(state.num_train_epochs)  # sys.maxsize where only the number of steps is known
        known = epochs if epochs < sys.maxsize else None
        self._trainer._open_flow(known, state.stateful_callbacks.get(STATE))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint may be written before on_epoch_end, and a training resumed from it would never get there.
        self._keep(state, ended=state.epoch is not None and state.epoch == math.floor(state.epoch))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._keep(state, ended=True)

    def _keep(self, state: TrainerState, ended: bool) -> None:
        session = self._trainer._session
        if session is None:
            return
        if ended:
            session.end_epoch(math.ceil(state.epoch or 0))
        state.stateful_callbacks[STATE] = session.state_dict()
