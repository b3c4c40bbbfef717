"""Regularizers in a Hugging Face ``Trainer``, the feature flow first: a mix-in that adds penalties where the loss is computed.

What edits gradients and weights is called by the optimizer, as it steps (``session``).
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome
from flowprune.errors import ArtifactError, MissingLibraryError
from flowprune.integrations.methods_given import Methods, check_flow, check_methods
from flowprune.integrations.session import FlowSession, Session
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


STATES = "regularizers.pt"
"""The file in a checkpoint that holds the states of other regularizers, tensors included."""


class RegularizerMixin:
    """Makes any ``Trainer`` train with one or several regularizers: ``class Mine(RegularizerMixin, Seq2SeqTrainer)``.

    Whatever computes the loss below it (the model, ``compute_loss_func``, label smoothing, a ``compute_loss`` of your own) stays as
    it is; in training the penalties are added, always as the mean over the accumulated batches. Gradients are edited after they
    were unscaled and clipped, just before the optimizer steps, weights just after. Evaluation takes no part. The methods are there
    from the beginning of ``train()`` to its end, also if that is an exception; then the model is left without hooks. They decide
    when the last epoch ends (``outcomes``), and once more where the best model was loaded.

    The ``loss`` that the trainer logs is all that is minimised, penalties included; ``regularizer_penalty`` beside it is the mean
    penalty of a batch in this process, and ``regularizer_strength`` and the like are what the methods said of the last epoch.

    The methods' states lie in every checkpoint (``regularizers.pt``), and ``train(resume_from_checkpoint=...)`` goes on from them.

    Args:
        args, kwargs: of the trainer.
        regularizers: by name with their options, ``{"tpp": {"inputs": example, "ratio": 0.5}}``, or a function that builds one or
            several for the model.
        macs_left: for methods that want it: measures, once an epoch, the share of the MACs that a cut of what is dead would leave.

    Raises:
        UnknownNameError, RecipeError, TypeError: for methods or options that there are none of.
        ModelError: when a training begins, for a model that is sharded or behind DataParallel; and what the methods raise.
        ArtifactError: when a training is resumed with other methods or options.
    """

    prefix = "regularizer"

    def __init__(
        self, *args: Any, regularizers: Methods, macs_left: Callable[[], float] | None = None, **kwargs: Any
    ) -> None:
        check_methods(regularizers)
        self._methods, self._macs_left = regularizers, macs_left
        self._session: Session | None = None
        self._penalties: Tensor | float = 0.0
        self._penalized = 0
        self._resumed_from: Path | None = None
        self.outcomes: tuple[Outcome, ...] = ()
        super().__init__(*args, **kwargs)
        self.add_callback(_Epochs(self))  # type: ignore[attr-defined]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, and leave the model as it was."""
        trainer: Any = self
        found = resume_from_checkpoint
        if found is True:
            found = importlib.import_module("transformers.trainer_utils").get_last_checkpoint(trainer.args.output_dir)
        self._resumed_from = Path(found) if found else None
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._close_session()

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, and in training the penalties with it."""
        compute = super().compute_loss  # type: ignore[misc]
        session = self._session
        if session is None or not model.training or not torch.is_grad_enabled():
            return compute(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        session.forget()
        batch = self._images_and_labels(inputs)  # before the loss, which may take the labels out
        loss, outputs = compute(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        # A mean over one batch is divided by the trainer after this; a loss that was divided by the items of all accumulated
        # batches is one batch's part of their mean, and the penalty has to become one.
        batches = getattr(self, "current_gradient_accumulation_steps", 1) if self._is_divided(num_items_in_batch) else 1
        task_loss = None if session.calibrated else loss.detach() * batches
        penalty = session.penalty(task_loss, batch=batch, outputs=outputs)
        self._penalties, self._penalized = self._penalties + penalty.detach(), self._penalized + 1
        loss = loss + (penalty / batches).to(loss.device)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the penalty beside the training loss."""
        if "loss" in logs and self._penalized:
            logs[f"{self.prefix}_penalty"] = float(self._penalties) / self._penalized
            self._penalties, self._penalized = 0.0, 0
            logs.update({f"{self.prefix}_{name}": number for name, number in self._said().items()})
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _images_and_labels(self, inputs: Any) -> tuple[Tensor, Tensor] | None:
        trainer: Any = self
        if not isinstance(inputs, Mapping):
            return None
        images, labels = inputs.get(getattr(trainer.model, "main_input_name", "")), inputs.get("labels")
        return (images, labels) if isinstance(images, Tensor) and isinstance(labels, Tensor) else None

    def _is_divided(self, num_items_in_batch: Any) -> bool:
        trainer: Any = self
        said = getattr(trainer, "loss_is_scaled_for_ga", None)
        if said is not None:
            return bool(said)
        by_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_items or trainer.compute_loss_func is not None)

    def _said(self) -> dict[str, float]:
        return {} if self._session is None else self._session.metrics

    def _open_session(self, epochs: int | None, steps: int | None, state: TrainerState) -> None:
        self._close_session()
        trainer: Any = self
        unwrapped(trainer.model_wrapped)  # complains about DataParallel and sharded models
        self._session = session = self._made_session(trainer.model, epochs, state)
        session.begin(trainer.optimizer, steps=steps)

    def _made_session(self, model: nn.Module, epochs: int | None, state: TrainerState) -> Session:
        kept: Any = None
        if self._resumed_from is not None:
            file = self._resumed_from / STATES
            try:
                kept = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever the reader stumbles over in a file that is missing or damaged
                raise ArtifactError(f"cannot read {file}, which a training with regularizers goes on from") from error
        return Session(model, self._methods, epochs=epochs, macs_left=self._macs_left, state=kept)

    def _keep_state(self, session: Session, state: TrainerState) -> None:
        """Put the methods' state where the next checkpoint takes it from, if it takes plain numbers from there."""

    def _save_state(self, session: Session, folder: Path, writes: bool) -> None:
        """Put the methods' state into a checkpoint; in every process, for it may have to be gathered from all of them."""
        kept = session.state_dict()
        if writes and folder.is_dir():
            torch.save(kept, folder / STATES)

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._penalties, self._penalized = 0.0, 0


class FeatureFlowMixin(RegularizerMixin):
    """Makes any ``Trainer`` train with the penalty of a ``FeatureFlow``: ``class Mine(FeatureFlowMixin, Seq2SeqTrainer)``.

    ``RegularizerMixin`` says how. A percentage is one of the loss as the trainer minimises it. That matters where a model takes
    ``num_items_in_batch`` and makes nothing of it (the convolutional networks of transformers 5.23): the trainer then adds the
    losses of accumulated batches up undivided. A coefficient stays what it is, and counts less beside such a sum.

    ``flow_penalty`` is logged, and with a target ``flow_strength`` (in force in the last epoch) and ``flow_dead_share`` or
    ``flow_macs_left`` (after it). The flow's state is in the ``trainer_state.json`` of every checkpoint.

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

    prefix = "flow"

    def __init__(
        self, *args: Any, flow: Mapping[str, Any], macs_left: Callable[[], float] | None = None, **kwargs: Any
    ) -> None:
        check_flow(flow)
        self._flow_options = dict(flow)
        super().__init__(*args, regularizers={"ffr": self._flow_options}, macs_left=macs_left, **kwargs)

    @property
    def feature_flow(self) -> FeatureFlow | None:
        """The flow of the training under way; None before and after."""
        return self._session.flow if isinstance(self._session, FlowSession) else None

    def _said(self) -> dict[str, float]:
        metrics = super()._said()
        return metrics if len(metrics) > 1 else {}  # a constant strength is nothing to log

    def _made_session(self, model: nn.Module, epochs: int | None, state: TrainerState) -> Session:
        kept = state.stateful_callbacks.get(STATE)
        return FlowSession(model, self._flow_options, epochs=epochs, macs_left=self._macs_left, state=kept)

    def _keep_state(self, session: Session, state: TrainerState) -> None:
        state.stateful_callbacks[STATE] = session.state_dict()

    def _save_state(self, session: Session, folder: Path, writes: bool) -> None:
        """Nothing: it is in ``trainer_state.json``."""


class RegularizerTrainer(RegularizerMixin, Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with regularizers.

    ::

        methods = {"tpp": {"inputs": example, "ratio": 0.5}}
        trainer = RegularizerTrainer(model, args, train_dataset=images, regularizers=methods)
        trainer.train()

    ``RegularizerMixin`` says the rest.
    """


class FeatureFlowTrainer(FeatureFlowMixin, Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with feature flow regularization.

    ::

        trainer = FeatureFlowTrainer(model, args, train_dataset=images, flow={"gradient": "5%", "curvature": "5%"})
        trainer.train()

    ``FeatureFlowMixin`` says the rest.
    """


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the methods when a training begins and an epoch ends, and puts their states where checkpoints have them."""

    def __init__(self, trainer: RegularizerMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epochs = math.ceil(state.num_train_epochs)  # sys.maxsize where only the number of steps is known
        if epochs < sys.maxsize:
            self._trainer._open_session(epochs, math.ceil(state.max_steps / max(1, epochs)), state)
        else:
            self._trainer._open_session(None, None, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint may be written before on_epoch_end, and a training resumed from it would never get there.
        self._kept(state, ended=state.epoch is not None and state.epoch == math.floor(state.epoch))
        if self._trainer._session is not None and state.global_step >= state.max_steps:
            self._trainer._session.finish()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._kept(state, ended=True)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        session, folder = self._trainer._session, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if session is not None:
            self._trainer._save_state(session, folder, bool(args.should_save))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        session = self._trainer._session
        if session is not None:
            self._trainer.outcomes = session.finish(again=bool(args.load_best_model_at_end))

    def _kept(self, state: TrainerState, ended: bool) -> None:
        session = self._trainer._session
        if session is None:
            return
        if ended:
            session.end_epoch(math.ceil(state.epoch or 0))
        self._trainer._keep_state(session, state)
