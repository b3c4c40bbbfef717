"""Every hook of every regularizer in Lightning's and Hugging Face's trainings, beside the same training written by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from acting import Counting, trained_by_hand
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning_training import BATCHES, Classifier, loader, network, optimizer_of, trainer
from test_transformers_trainer import BATCH, IMAGES, RATE, Images, arguments, resnet
from test_transformers_trainer import trainer as trainer_of_transformers
from torch import Tensor, nn
from torch.nn import functional
from trained_alike import assert_equal_weights, hooks
from transformers import Trainer

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import ArtifactError, FlowpruneError, ModelError, RecipeError, UnknownNameError
from flowprune.integrations.lightning import RegularizerCallback
from flowprune.integrations.transformers import RegularizerTrainer
from flowprune.methods.regularizers.tpp import TPP
from flowprune.methods.regularizers.wgsef import WGSEF

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*(is not empty|dirpath has changed|no .val_dataloader.|sync_dist=True)"),
]

EPOCHS = 4


def methods(model: nn.Module) -> list[Regularizer]:
    """Gradients edited, proximal steps, and both counted."""
    example = torch.zeros(2, 1, 8, 8, dtype=next(model.parameters()).dtype)
    chosen = TPP(model, inputs=example, ratio=0.25, delta=0.25, every=1, zero_every=1, decorrelation=1.0)
    return [chosen, WGSEF(model, inputs=example, keep=0.6, strength=0.05), Counting(model)]


def methods_for_pictures(model: nn.Module) -> list[Regularizer]:
    example = {"pixel_values": torch.zeros(2, 3, 16, 16)}
    chosen = TPP(model, inputs=example, ratio=0.25, delta=0.25, every=1, zero_every=1, decorrelation=1.0)
    return [chosen, WGSEF(model, inputs=example, keep=0.6, strength=0.05), Counting(model)]


@pytest.mark.parametrize(("precision", "accumulated"), [("64-true", 1), ("64-true", 2), ("fp16", 1)])
def test_lightning_equals_the_loop_by_hand(tmp_path: Path, precision: str, accumulated: int) -> None:
    dtype = torch.float64 if precision == "64-true" else torch.float32
    model = network(dtype)
    by_hand = copy.deepcopy(model)
    plugin: dict[str, Any] = {"precision": precision}
    if precision == "fp16":
        plugin = {"plugins": MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0))}
    kept: list[Regularizer] = []

    def build(module: nn.Module) -> list[Regularizer]:
        kept[:] = methods(module)
        return kept

    callback = RegularizerCallback(build)
    running = trainer(tmp_path, callback, accumulate_grad_batches=accumulated, **plugin)
    running.fit(Classifier(model), loader(dtype))

    def loss_of(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        with torch.autocast("cpu", torch.float16, enabled=precision == "fp16", cache_enabled=False):
            outputs = by_hand(batch[0])
            return functional.cross_entropy(outputs, batch[1]), batch, outputs

    own, steps = methods(by_hand), BATCHES // accumulated
    options: dict[str, Any] = {"epochs": EPOCHS, "steps": steps, "accumulated": accumulated}
    if precision == "fp16":
        options["scaler"] = torch.amp.GradScaler("cpu", init_scale=256.0)
    trained_by_hand(own, optimizer_of(by_hand), lambda: loader(dtype), loss_of, **options)
    assert_equal_weights(model, by_hand, 1e-10 if dtype == torch.float64 else 1e-4)
    counting, expected = kept[2], own[2]
    assert isinstance(counting, Counting) and isinstance(expected, Counting)
    assert counting.calls == expected.calls and counting.length == (EPOCHS, steps)
    torch.testing.assert_close(counting.seen, expected.seen, rtol=1e-3, atol=1e-5)
    first, second, third = callback.outcomes
    assert first.leaves and second.leaves and third.scores and hooks(model) == 0
    assert running.callback_metrics["regularizer_pull"] == pytest.approx(float(counting.seen[0]), rel=1e-4)
    assert running.callback_metrics["regularizer_strength"] > 0 and "regularizer_strength_2" in running.callback_metrics


def test_lightning_resumed_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    def fit(model: nn.Module, path: str | None) -> RegularizerCallback:
        callback = RegularizerCallback(methods)
        saving = ModelCheckpoint(tmp_path / str(path is None), save_top_k=-1, every_n_epochs=2)
        running = trainer(tmp_path, None, callbacks=[callback, saving], enable_checkpointing=True)
        running.fit(Classifier(model), loader(), loader(), ckpt_path=path)
        return callback

    whole, resumed = network(), network()
    callback = fit(whole, None)
    saved = min((tmp_path / "True").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    state = torch.load(saved, weights_only=True)
    assert state["global_step"] == 2 * BATCHES
    again = fit(resumed, str(saved))
    assert_equal_weights(resumed, whole, 0.0)
    states = [one.state_dict()["states"] for one in (callback, again)]
    assert states[0][0]["step"] == states[1][0]["step"] == EPOCHS * BATCHES
    assert torch.equal(states[0][2]["seen"], states[1][2]["seen"])
    last = max((tmp_path / "True").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    decided = torch.load(last, weights_only=True)[
        "state_dict"
    ]  # what the last epoch's checkpoint has is decided already
    assert all(torch.equal(decided[f"model.{name}"], value) for name, value in whole.state_dict().items())
    with pytest.raises(ArtifactError, match="is of a training with TPP, WGSEF, Counting, this one has Counting"):
        trainer(tmp_path, RegularizerCallback(Counting)).fit(Classifier(network()), loader(), ckpt_path=str(saved))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_transformers_equals_the_loop_by_hand(tmp_path: Path, accumulated: int) -> None:
    model = resnet()
    by_hand = copy.deepcopy(model)
    kept: list[Regularizer] = []

    def build(module: nn.Module) -> list[Regularizer]:
        kept[:] = methods_for_pictures(module)
        return kept

    args = arguments(
        tmp_path, gradient_accumulation_steps=accumulated, num_train_epochs=EPOCHS, dataloader_drop_last=True
    )
    images = torch.utils.data.Subset(Images(), range(4 * BATCH))
    running = RegularizerTrainer(model, args, train_dataset=images, regularizers=build)
    running.model_accepts_loss_kwargs = False
    running.train()

    def loss_of(batch: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor], Any]:
        outputs = by_hand(**batch)
        return outputs.loss, (batch["pixel_values"], batch["labels"]), outputs

    own, steps = methods_for_pictures(by_hand), 4 // accumulated
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=RATE)
    batches = Images().batches()[:4]
    trained_by_hand(own, optimizer, lambda: batches, loss_of, epochs=EPOCHS, steps=steps, accumulated=accumulated)
    assert_equal_weights(model, by_hand, 1e-5)
    counting, expected = kept[2], own[2]
    assert isinstance(counting, Counting) and isinstance(expected, Counting)
    assert counting.calls == expected.calls and counting.length == (EPOCHS, steps)
    assert len(running.outcomes) == 3 and hooks(model) == 0
    assert any("regularizer_pull" in entry and "regularizer_penalty" in entry for entry in running.state.log_history)


def test_transformers_resumed_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    options = {"save_strategy": "epoch", "train_sampling_strategy": "random", "seed": 3}
    args = arguments(tmp_path, num_train_epochs=EPOCHS, **options)
    whole, resumed = resnet(), resnet()
    trainer_of_transformers(RegularizerTrainer, whole, args, regularizers=methods_for_pictures).train()
    saved = tmp_path / f"checkpoint-{2 * IMAGES // BATCH}"
    again = trainer_of_transformers(RegularizerTrainer, resumed, args, regularizers=methods_for_pictures)
    again.train(resume_from_checkpoint=str(saved))
    assert_equal_weights(resumed, whole, 0.0)
    last = resnet()
    trainer_of_transformers(RegularizerTrainer, last, args, regularizers=methods_for_pictures).train(True)
    assert_equal_weights(last, whole, 0.0)  # of a training that had ended: the checkpoint's weights were decided on
    (saved / "regularizers.pt").write_bytes(b"damaged")
    broken = trainer_of_transformers(RegularizerTrainer, resnet(), args, regularizers=methods_for_pictures)
    with pytest.raises(ArtifactError, match=r"cannot read .*regularizers\.pt"):
        broken.train(resume_from_checkpoint=str(saved))


def test_what_looks_ahead_is_refused_in_one_line(tmp_path: Path) -> None:
    for run in (
        lambda build: trainer(tmp_path, RegularizerCallback(build)).fit(Classifier(network()), loader()),
        lambda build: trainer_of_transformers(
            RegularizerTrainer, resnet(), arguments(tmp_path), regularizers=build
        ).train(),
    ):
        with pytest.raises(FlowpruneError, match="Counting runs the model again within a step") as caught:
            run(lambda model: Counting(model, looks_ahead=True))
        assert "\n" not in str(caught.value)


def test_mistakes_are_one_line_and_leave_no_hooks(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tpp'"):
        RegularizerCallback({"ttp": {}})
    with pytest.raises(TypeError, match="raito"):
        RegularizerCallback({"tpp": {"raito": 0.5}})
    with pytest.raises(RecipeError, match="names no regularizers"):
        trainer_of_transformers(RegularizerTrainer, resnet(), arguments(tmp_path), regularizers="tpp")
    with pytest.raises(RecipeError, match="no strength"):
        RegularizerCallback({"ffr": {"gradient": "5"}})
    module = Classifier(network())
    with pytest.raises(RecipeError, match="example inputs"):
        trainer(tmp_path, RegularizerCallback({"ffr": {"gradient": 0.1}, "tpp": {}})).fit(module, loader())
    assert hooks(module) == 0
    endless = RegularizerCallback({"tpp": {"inputs": torch.zeros(2, 1, 8, 8)}})
    with pytest.raises(ModelError, match="TPP goes by the length of the training"):
        trainer(tmp_path, endless, max_epochs=-1).fit(module, loader())
    assert hooks(module) == 0


def test_a_plain_trainer_of_transformers_trains_otherwise(tmp_path: Path) -> None:
    """The comparisons above would be empty if the methods were too weak to be seen in them."""
    acted, plain = resnet(), resnet()
    trainer_of_transformers(RegularizerTrainer, acted, arguments(tmp_path), regularizers=Counting).train()
    trainer_of_transformers(Trainer, plain, arguments(tmp_path)).train()
    with pytest.raises(AssertionError):
        assert_equal_weights(acted, plain, 1e-3)
