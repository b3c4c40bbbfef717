"""How the callback gets along with the rest of a Lightning training."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from lightning import pytorch as lightning
from lightning_training import Classifier, loader, network, trainer
from torch import Tensor, distributed, nn
from torch.nn import functional
from trained_alike import assert_equal_weights, hooks

import flowprune as fp
from flowprune.errors import MissingLibraryError, ModelError, RecipeError, UnknownNameError
from flowprune.integrations.lightning import FeatureFlowCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*(is not empty|dirpath has changed|no .val_dataloader.|sync_dist=True)"),
]


class Watching(lightning.Callback):  # type: ignore[misc, name-defined]
    """Another callback, which runs the model where the flow must not look."""

    def __init__(self, followed: FeatureFlowCallback) -> None:
        self.followed = followed
        self.hooks: list[int] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        assert self.followed.flow is not None
        statistics = copy.deepcopy(module.state_dict())
        module(batch[0] * 100)  # with gradients, in training mode
        module.load_state_dict(statistics)
        self.hooks.append(hooks(module))


def test_validation_and_other_forwards_take_no_part(tmp_path: Path) -> None:
    watched, plain = network(), network()
    callback = FeatureFlowCallback(0.3, 0.3)
    watching = Watching(callback)
    together = trainer(tmp_path, None, callbacks=[callback, watching], val_check_interval=1)
    module = Classifier(watched)
    together.fit(module, loader(), loader())
    trainer(tmp_path, FeatureFlowCallback(0.3, 0.3)).fit(Classifier(plain), loader())
    assert_equal_weights(watched, plain, 0.0)
    assert all(watching.hooks) and hooks(module) == 0 and callback.flow is None
    together.save_checkpoint(tmp_path / "after.ckpt")
    saved = torch.load(tmp_path / "after.ckpt", weights_only=True)
    assert list(saved["state_dict"]) == [f"model.{name}" for name in network().state_dict()]
    assert torch.equal(network_from(saved)(torch.ones(1, 1, 8, 8)), watched.eval()(torch.ones(1, 1, 8, 8)))


def network_from(saved: dict[str, Any]) -> nn.Module:
    model = network()
    model.load_state_dict({name.removeprefix("model."): value for name, value in saved["state_dict"].items()})
    return model.eval()


def test_penalty_is_logged_and_the_loss_is_not_touched(tmp_path: Path) -> None:
    model = network()
    flow = fp.FeatureFlow(copy.deepcopy(model), 0.3)
    running = trainer(tmp_path, FeatureFlowCallback(0.3, target_dead=0.3), max_epochs=1, limit_train_batches=1)
    running.fit(Classifier(model), loader())
    images, labels = next(iter(loader()))
    task_loss = functional.cross_entropy(flow._root(images), labels)
    metrics = running.callback_metrics
    assert metrics["flow_penalty"] == pytest.approx(flow.penalty().item(), rel=1e-5)
    assert metrics["train_loss"] == pytest.approx(task_loss.item(), rel=1e-5)
    assert metrics["flow_strength"] == 1 and 0 <= metrics["flow_dead_share"] < 1


def test_model_is_left_without_hooks_when_training_breaks_off(tmp_path: Path) -> None:
    class Breaking(Classifier):
        def training_step(self, batch: Any, index: int) -> Tensor:
            if index == 2:
                raise RuntimeError("out of luck")
            return super().training_step(batch, index)

    module = Breaking(network())
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer(tmp_path, FeatureFlowCallback(0.1)).fit(module, loader())
    assert hooks(module) == 0


class TwoParts(Classifier):
    """A LightningModule that is the network itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(nn.Identity())
        self.body, self.head = nn.Sequential(*list(network.children())[:-1]), nn.LazyLinear(10)
        self.example_input_array = torch.zeros(2, 1, 8, 8)
        self(self.example_input_array)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


@pytest.fixture
def one_process_group() -> Iterator[None]:
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this build of torch has no torch.distributed")
@pytest.mark.parametrize("attribute", [None, "body"])
def test_behind_distributed_data_parallel(tmp_path: Path, one_process_group: None, attribute: str | None) -> None:
    modules = [TwoParts(network()), TwoParts(network())]
    modules[1].load_state_dict(modules[0].state_dict())
    strategy = lightning.strategies.DDPStrategy(process_group_backend="gloo")
    for module, options in zip(modules, ({}, {"strategy": strategy}), strict=True):
        callback = FeatureFlowCallback("50%", attribute=attribute)
        trainer(tmp_path, callback, use_distributed_sampler=False, **options).fit(module, loader(), loader())
        assert callback.state_dict()["flow"]["coefficients"]["gradient"] > 0 and hooks(module) == 0
    assert_equal_weights(modules[0], modules[1], 1e-6)


@pytest.mark.skipif(not distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_a_sharded_model_is_refused(tmp_path: Path, one_process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

    class Sharding(lightning.strategies.SingleDeviceStrategy):
        """Lightning's own sharding strategies want a GPU; what they do to the model is this."""

        def setup(self, trainer: lightning.Trainer) -> None:
            fully_shard(self.model, mesh=init_device_mesh("cpu", (1,)))
            self.hooks_of_sharding = hooks(self.model)
            super().setup(trainer)

    module, strategy = Classifier(network()), Sharding("cpu")
    running = trainer(tmp_path, FeatureFlowCallback(0.1), strategy=strategy)
    with pytest.raises(ModelError, match="sharded by FSDP; use DistributedDataParallel"):
        running.fit(module, loader())
    assert hooks(module) == strategy.hooks_of_sharding


def test_one_callback_for_two_networks(tmp_path: Path) -> None:
    class Pair(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.teacher, self.student = network(), network()

        def forward(self, images: Tensor) -> Tensor:
            return self.teacher(images) + self.student(images)

    callbacks = [FeatureFlowCallback(0.1, attribute="teacher"), FeatureFlowCallback("50%", attribute="student")]
    running = trainer(tmp_path, None, callbacks=callbacks)
    running.fit(Pair(), loader())
    running.save_checkpoint(tmp_path / "pair.ckpt")
    states = torch.load(tmp_path / "pair.ckpt", weights_only=True)["callbacks"]
    given = [states[callback.state_key]["flow"]["strengths"]["gradient"] for callback in callbacks]
    assert given == [0.1, "50%"]


def test_a_callback_used_again_starts_anew(tmp_path: Path) -> None:
    callback, fresh = FeatureFlowCallback("50%", "50%"), FeatureFlowCallback("50%", "50%")
    trainer(tmp_path, callback).fit(Classifier(network()), loader())
    for used in (callback, fresh):
        other = fp.models.create("vgg6", in_channels=1, width=4)
        torch.manual_seed(3)
        for parameter in other.parameters():
            nn.init.normal_(parameter, std=0.1)
        trainer(tmp_path, used).fit(Classifier(other), loader())
    assert callback.state_dict() == fresh.state_dict()


def test_what_was_trained_can_be_pruned(tmp_path: Path) -> None:
    module = Classifier(network())
    trainer(tmp_path, FeatureFlowCallback("50%", "50%")).fit(module, loader())
    images = torch.randn(2, 1, 8, 8)
    plan = fp.plan(module.model, images, importance=fp.importance.L2(), macs=0.5)
    smaller = Classifier(fp.prune(module.model, plan))
    assert fp.measure(smaller.model, images).macs <= 0.5 * fp.measure(module.model, images).macs
    trainer(tmp_path, FeatureFlowCallback("50%"), max_epochs=1).fit(smaller, loader(), loader())
    assert torch.isfinite(smaller(images)).all()


def test_trainer_of_the_other_package_takes_it_too(tmp_path: Path) -> None:
    """``lightning`` and ``pytorch_lightning`` hold the same code twice, and their classes are not the same."""

    class Module(pytorch_lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        training_step, configure_optimizers = Classifier.training_step, Classifier.configure_optimizers

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images)

    module, twin = Module(), Classifier(network())
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    callbacks = [FeatureFlowCallback("50%")]
    pytorch_lightning.Trainer(max_epochs=4, callbacks=callbacks, enable_checkpointing=False, **quiet).fit(
        module, loader()
    )
    trainer(tmp_path, FeatureFlowCallback("50%")).fit(twin, loader())
    assert_equal_weights(module, twin, 0.0)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    class Manual(Classifier):
        automatic_optimization = False

    class Elsewhere(Classifier):
        def __init__(self) -> None:
            super().__init__(network())
            self.other = nn.Conv2d(1, 1, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return functional.cross_entropy(self.model(batch[0]), batch[1])

    with pytest.raises(RecipeError, match="no strength"):
        FeatureFlowCallback("5")
    with pytest.raises(TypeError, match="reductoin"):
        FeatureFlowCallback("5%", reductoin="sum")
    with pytest.raises(ModelError, match="manual_backward"):
        trainer(tmp_path, FeatureFlowCallback("5%")).fit(Manual(network()), loader())
    with pytest.raises(UnknownNameError, match="did you mean 'model'"):
        trainer(tmp_path, FeatureFlowCallback("5%", attribute="modell")).fit(Classifier(network()), loader())
    with pytest.raises(ModelError, match=r'follows Elsewhere; attribute="\.\.\." names another'):
        trainer(tmp_path, FeatureFlowCallback("5%")).fit(Elsewhere(), loader())


def test_without_lightning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "flowprune.integrations.lightning")
    with pytest.raises(MissingLibraryError, match=r"pip install 'flowprune\[lightning\]'") as caught:
        importlib.import_module("flowprune.integrations.lightning")
    assert "\n" not in str(caught.value) and isinstance(caught.value, ImportError)


def test_schedules_and_targets_get_their_epochs_from_the_trainer(tmp_path: Path) -> None:
    scheduled = FeatureFlowCallback(0.1, schedule="linear")
    trainer(tmp_path, scheduled).fit(Classifier(network()), loader())
    control = scheduled.state_dict()["flow"]["control"]
    assert (control["epochs"], control["epoch"]) == (4, 4)

    measured = iter((0.9, 0.8, 0.7, 0.6))
    steered = FeatureFlowCallback(0.1, target_macs=0.5, macs_left=lambda: next(measured))
    running = trainer(tmp_path, steered)
    running.fit(Classifier(network()), loader(), loader())
    assert running.callback_metrics["flow_macs_left"] == pytest.approx(0.6) and next(measured, None) is None
    with pytest.raises(ModelError, match="target_macs needs"):
        trainer(tmp_path, FeatureFlowCallback(0.1, target_macs=0.5)).fit(Classifier(network()), loader())
