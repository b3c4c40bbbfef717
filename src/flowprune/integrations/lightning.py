"""Regularizers in a Lightning training, the feature flow first: one callback, and no line changed in the LightningModule.

A callback cannot return another loss. But the tensor that ``on_before_backward`` is given is the very one that the backward pass
starts from, and nobody else holds it: Lightning has just divided the loss by the number of accumulated batches, and scaled it. So
the penalty is added to it in place, scaled alike, and everything goes through one backward pass, as in a loop written by hand.
What edits gradients and weights is called by the optimizer, as it steps (``session``).
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome
from flowprune.errors import MissingLibraryError, ModelError, UnknownNameError
from flowprune.integrations.methods_given import Methods, check_flow, check_methods
from flowprune.integrations.session import FlowSession, Session
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


class RegularizerCallback(Callback):  # type: ignore[misc]
    """Has one or several regularizers act in a training.

    ::

        methods = {"ffr": {"gradient": "5%"}, "wgsef": {"inputs": images[:2], "keep": 0.5}}
        trainer = Trainer(max_epochs=90, callbacks=[RegularizerCallback(methods)])
        trainer.fit(lightning_module, data)

    It works with automatic optimization, and with what Lightning does to the loss there: accumulated batches (penalties are
    divided like the loss), mixed precision (and scaled like it), DistributedDataParallel. Gradients are edited after they were
    unscaled and clipped, just before the optimizer steps, weights just after. Validation takes no part. The methods decide when
    the last epoch ends (``outcomes``). When the training ends, or breaks off, the model is left without hooks.

    Logged as the means over an epoch: ``regularizer_penalty``, not part of any loss that the module logs itself; and at its end
    what the methods say, as ``regularizer_strength``.

    The callback's state, tensors included, is part of every checkpoint, and a resumed training goes on from it. A training that
    starts at its first step starts with methods of its own, also if the callback has been used before.

    Args:
        methods: regularizers by name with their options, or a function that builds one or several for the network.
        attribute: the submodule that they act on, like "model" or "backbone.encoder". Without it: the one submodule that has
            parameters, or the LightningModule itself if there are several; its ``forward`` must then be what
            ``training_step`` calls: ``self(x)``.
        macs_left: for methods that want it: measures, once an epoch, the share of the MACs that a cut of what is dead would leave.

    Raises:
        UnknownNameError, RecipeError, TypeError: for methods or options that there are none of.
        ModelError: when a training begins, with manual optimization or a sharded model; and what the methods raise.
        UnknownNameError: when a training begins, for a submodule that is not there.
        ArtifactError: when a training is resumed with other methods or options.
    """

    prefix = "regularizer"

    def __init__(
        self, methods: Methods, *, attribute: str | None = None, macs_left: Callable[[], float] | None = None
    ) -> None:
        check_methods(methods)
        self._methods = methods
        self.attribute = attribute
        self._macs_left = macs_left
        self._session: Session | None = None
        self._state: dict[str, Any] = {}
        self._batch: tuple[Tensor, Tensor] | None = None
        self.outcomes: tuple[Outcome, ...] = ()

    @property
    def state_key(self) -> str:
        """One a submodule and its methods, so that several callbacks can be in one checkpoint."""
        names = list(self._methods) if isinstance(self._methods, Mapping) else None
        key: str = self._generate_state_key(attribute=self.attribute, methods=names)
        return key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse manual optimization before anything runs."""
        if stage == "fit" and not pl_module.automatic_optimization:
            raise ModelError(
                f"{type(self).__name__} needs automatic optimization; in a module that optimizes by itself build "
                "fp.FeatureFlow(model, ...) and call self.manual_backward(loss + flow.penalty(loss))"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Place the hooks, after the sanity check and after a checkpoint was loaded."""
        unwrapped(trainer.strategy.model)  # complains about sharded models
        self._close()
        if trainer.global_step == 0:
            self._state = {}
        epochs, steps = _length(trainer)
        session = self._opened(self._followed(pl_module), trainer, pl_module, epochs)
        self._session = session
        session.begin(trainer.optimizers[0], steps=steps)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget what ran before this step and was no part of one: a step that was skipped, another callback's forward."""
        if self._session is not None:
            self._session.forget()
            pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)
            self._batch = (batch[0], batch[1]) if pair else None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add the penalty to the loss, divided and scaled as the loss has been."""
        if self._session is None:
            return
        session, batches = self._session, trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        task_loss = None
        if not session.calibrated:
            task_loss = loss.detach() * batches / (1.0 if scaler is None else scaler.get_scale())
        try:
            penalty = session.penalty(task_loss, batch=self._batch)
        except ModelError as error:
            followed = self.attribute or type(self._followed(pl_module)).__name__
            raise ModelError(
                f'{error} ({type(self).__name__} follows {followed}; attribute="..." names another)'
            ) from error
        share = (penalty / batches).to(loss.device)
        loss.add_(share if scaler is None else scaler.scale(share))
        # Each batch counts once: what a batch's size is, is not ours to guess.
        said = {f"{self.prefix}_penalty": penalty.detach()}
        pl_module.log_dict(said, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last batch the methods' epoch ends: before validation, which may write the epoch's checkpoint."""
        if trainer.is_last_batch:
            self._end_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The methods' epoch ends here if it was broken off; log what they say of it."""
        self._end_epoch(trainer)
        metrics = self._logged() if self._session is not None else {}
        if metrics:
            pl_module.log_dict({f"{self.prefix}_{name}": number for name, number in metrics.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the methods decide, unless they have, and leave the model as it was."""
        if self._session is not None:
            self.outcomes = self._session.finish()
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the model as it was."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """What the methods need to go on; also after the training, for ``save_checkpoint``."""
        return self._state if self._session is None else self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state for the training that begins."""
        self._state = dict(state_dict)

    def _opened(self, model: nn.Module, trainer: Trainer, pl_module: LightningModule, epochs: int | None) -> Session:
        return Session(model, self._methods, epochs=epochs, macs_left=self._macs_left, state=self._state or None)

    def _logged(self) -> dict[str, float]:
        return {} if self._session is None else self._session.metrics

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
            self._session.close()
            self._session = None


class FeatureFlowCallback(RegularizerCallback):
    """Adds the penalty of a ``FeatureFlow`` to the loss of every training step.

    ::

        trainer = Trainer(max_epochs=90, callbacks=[FeatureFlowCallback("5%", "5%")])
        trainer.fit(lightning_module, data)

    ``RegularizerCallback`` says the rest. Logged are ``flow_penalty``, and with a target also ``flow_strength`` (in force in the
    epoch) and ``flow_dead_share`` or ``flow_macs_left`` (after it). The state is plain numbers and strings.

    Args:
        gradient, curvature: strengths, as ``FeatureFlow`` takes them.
        attribute: the submodule whose flow is followed.
        macs_left: for ``target_macs``: measures, once an epoch, the share of the MACs that a cut of what is dead would leave.
        options: everything else that ``FeatureFlow`` takes. ``epochs`` is the trainer's ``max_epochs`` where it is not given.

    Raises:
        RecipeError: for a strength that is none.
        ModelError, UnknownNameError, ArtifactError: as ``RegularizerCallback``.
    """

    prefix = "flow"

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
        check_flow(self._options)
        super().__init__({"ffr": self._options}, attribute=attribute, macs_left=macs_left)

    @property
    def flow(self) -> FeatureFlow | None:
        """The flow of the training under way; None before and after."""
        return self._session.flow if isinstance(self._session, FlowSession) else None

    @property
    def state_key(self) -> str:
        """One a submodule, so that several flows can be in one checkpoint."""
        key: str = self._generate_state_key(attribute=self.attribute)
        return key

    def _opened(self, model: nn.Module, trainer: Trainer, pl_module: LightningModule, epochs: int | None) -> Session:
        options = dict(self._options)
        if model is pl_module and trainer.strategy.model is not pl_module and options.get("inputs") is None:
            # A wrapper calls the module with the batch first, and training_step calls it with images inside that call.
            if pl_module.example_input_array is None:
                raise ModelError(
                    "FeatureFlowCallback cannot see the inputs of a LightningModule behind a distributed strategy; name the "
                    'network by attribute="...", or set self.example_input_array'
                )
            options["inputs"] = trainer.strategy.batch_to_device(pl_module.example_input_array)
        return FlowSession(model, options, epochs=epochs, macs_left=self._macs_left, state=self._state or None)

    def _logged(self) -> dict[str, float]:
        metrics = super()._logged()
        return metrics if len(metrics) > 1 else {}  # a constant strength is nothing to log


def _length(trainer: Trainer) -> tuple[int | None, int | None]:
    """How many epochs the training will have, and how many steps each; None for what nobody knows."""
    batches, total = trainer.num_training_batches, trainer.max_steps
    steps = None
    if math.isfinite(batches):
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
    if epochs is None and total > 0 and steps:
        epochs = math.ceil(total / steps)
    return epochs, steps
