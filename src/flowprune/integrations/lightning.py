"""Feature flow regularization in a Lightning training: one callback, and no line changed in the LightningModule.

A callback cannot return another loss. But the tensor that ``on_before_backward`` is given is the very one that the backward pass
starts from, and nobody else holds it: Lightning has just divided the loss by the number of accumulated batches, and scaled it. So
the penalty is added to it in place, scaled alike, and everything goes through one backward pass, as in a loop written by hand.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from flowprune.errors import MissingLibraryError, ModelError, UnknownNameError
from flowprune.integrations.session import FlowSession, check_options
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.unwrapping import unwrapped

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer


def _callback_class() -> Any:
    """The ``Callback`` of the package the user imports: ``lightning`` and ``pytorch_lightning`` hold the same code twice."""
    packages = {"lightning.pytorch": "lightning", "pytorch_lightning": "pytorch_lightning"}
    for module, package in sorted(packages.items(), key=lambda item: item[1] not in sys.modules):
        try:
            return importlib.import_module(module).Callback
        except ModuleNotFoundError as error:
            if error.name not in (module, package):
                raise
    raise MissingLibraryError("flowprune.integrations.lightning needs Lightning: pip install 'flowprune[lightning]'")


if not TYPE_CHECKING:
    Callback = _callback_class()


class FeatureFlowCallback(Callback):  # type: ignore[misc]
    """Adds the penalty of a ``FeatureFlow`` to the loss of every training step.

    ::

        trainer = Trainer(max_epochs=90, callbacks=[FeatureFlowCallback("5%", "5%")])
        trainer.fit(lightning_module, data)

    It works with automatic optimization, and with what Lightning does to the loss there: accumulated batches (the penalty is
    divided like the loss), mixed precision (and scaled like it), DistributedDataParallel. Validation takes no part. When the
    training ends, or breaks off, the model is left without hooks.

    Logged as the means over an epoch: ``flow_penalty``, not part of any loss that the module logs itself. With a target
    also ``flow_strength`` (in force in the epoch) and ``flow_dead_share`` or ``flow_macs_left`` (after it).

    The callback's state is part of every checkpoint, and a training that is resumed goes on with the same strength. A training
    that starts at its first step starts with a flow of its own, also if the callback has been used before.

    Args:
        gradient, curvature: strengths, as ``FeatureFlow`` takes them.
        attribute: the submodule whose flow is followed, like "model" or "backbone.encoder". Without it: the one submodule that has
            parameters, or the LightningModule itself if there are several; its ``forward`` must then be what
            ``training_step`` calls: ``self(x)``.
        macs_left: for ``target_macs``: measures, once an epoch, the share of the MACs that a cut of what is dead would leave.
        options: everything else that ``FeatureFlow`` takes. ``epochs`` is the trainer's ``max_epochs`` where it is not given.

    Raises:
        RecipeError: for a strength that is none.
        ModelError: when a training begins, with manual optimization or a sharded model; and what ``FeatureFlow`` raises.
        UnknownNameError: when a training begins, for a submodule that is not there.
        ArtifactError: when a training is resumed with other strengths or another schedule.
    """

    def __init__(
        self,
        gradient: float | str | None = None,
        curvature: float | str | None = None,
        *,
        attribute: str | None = None,
        macs_left: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:
        self._options = {"gradient": gradient, "curvature": curvature, **options}
        check_options(self._options)
        self.attribute = attribute
        self._macs_left = macs_left
        self._session: FlowSession | None = None
        self._state: dict[str, Any] = {}

    @property
    def flow(self) -> FeatureFlow | None:
        """The flow of the training under way; None before and after."""
        return None if self._session is None else self._session.flow

    @property
    def state_key(self) -> str:
        """One a submodule, so that several flows can be in one checkpoint."""
        key: str = self._generate_state_key(attribute=self.attribute)
        return key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse manual optimization before anything runs."""
        if stage == "fit" and not pl_module.automatic_optimization:
            raise ModelError(
                "FeatureFlowCallback needs automatic optimization; in a module that optimizes by itself build "
                "fp.FeatureFlow(model, ...) and call self.manual_backward(loss + flow.penalty(loss))"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Place the hooks, after the sanity check and after a checkpoint was loaded."""
        unwrapped(trainer.strategy.model)  # complains about sharded models
        if trainer.global_step == 0:
            self._state = {}
        model, options = self._followed(pl_module), dict(self._options)
        if model is pl_module and trainer.strategy.model is not pl_module and options.get("inputs") is None:
            # A wrapper calls the module with the batch first, and training_step calls it with images inside that call.
            if pl_module.example_input_array is None:
                raise ModelError(
                    "FeatureFlowCallback cannot see the inputs of a LightningModule behind a distributed strategy; name the "
                    'network by attribute="...", or set self.example_input_array'
                )
            options["inputs"] = trainer.strategy.batch_to_device(pl_module.example_input_array)
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
        self._close()
        self._session = FlowSession(model, options, epochs=epochs, macs_left=self._macs_left, state=self._state or None)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget what ran before this step and was no part of one: a step that was skipped, another callback's forward."""
        if self._session is not None:
            self._session.flow.forget()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add the penalty to the loss, divided and scaled as the loss has been."""
        if self._session is None:
            return
        flow, batches = self._session.flow, trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        task_loss = None
        if flow.coefficients is None:
            task_loss = loss.detach() * batches / (1.0 if scaler is None else scaler.get_scale())
        try:
            penalty = flow.penalty(task_loss)
        except ModelError as error:
            followed = self.attribute or type(self._followed(pl_module)).__name__
            raise ModelError(
                f'{error} (FeatureFlowCallback follows {followed}; attribute="..." names another)'
            ) from error
        share = penalty / batches
        loss.add_((share if scaler is None else scaler.scale(share)).to(loss.device))
        # Each batch counts once: what a batch's size is, is not ours to guess.
        pl_module.log("flow_penalty", penalty.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last batch the flow's epoch ends: before validation, which may write the epoch's checkpoint."""
        if trainer.is_last_batch:
            self._end_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The flow's epoch ends here if it was broken off; log what the strength goes by."""
        self._end_epoch(trainer)
        if self._session is not None and self._session.metrics:
            pl_module.log_dict(self._session.metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the model as it was."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the model as it was."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Calibration, schedule and epochs, as plain numbers and strings; also after the training, for ``save_checkpoint``."""
        return self._state if self._session is None else self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state for the training that begins."""
        self._state = dict(state_dict)

    def _followed(self, pl_module: LightningModule) -> nn.Module:
        if self.attribute is not None:
            known = [name for name, _ in pl_module.named_modules() if name]
            if self.attribute not in known:
                raise UnknownNameError("submodule", self.attribute, known)
            chosen: nn.Module = pl_module.get_submodule(self.attribute)
            return chosen
        children = [child for child in pl_module.children() if next(child.parameters(), None) is not None]
        own = next(pl_module.parameters(recurse=False), None)
        module: nn.Module = pl_module
        return children[0] if len(children) == 1 and own is None else module

    def _end_epoch(self, trainer: Trainer) -> None:
        if self._session is not None:
            self._session.end_epoch(trainer.current_epoch + 1)

    def _close(self) -> None:
        if self._session is None:
            return
        try:
            self._state = self._session.state_dict()
        finally:  # what broke the training off may have broken the device, too
            self._session.flow.close()
            self._session = None
