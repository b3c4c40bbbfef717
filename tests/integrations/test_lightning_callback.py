"""The callback in real Lightning trainings, beside the same training written by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning_training import BATCHES, Classifier, loader, network, optimizer_of, trainer
from torch import nn
from torch.nn import functional
from trained_alike import assert_equal_weights, hooks

import flowprune as fp
from flowprune.errors import ArtifactError
from flowprune.integrations.lightning import FeatureFlowCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*logging interval"),
    pytest.mark.filterwarnings("ignore:.*(is not empty|dirpath has changed|no .val_dataloader.|sync_dist=True)"),
]


@pytest.mark.parametrize(
    ("precision", "accumulated", "strength"),
    [("64-true", 1, "50%"), ("64-true", 2, 0.3), ("64-true", 4, "50%"), ("bf16-mixed", 2, "50%"), ("fp16", 2, "50%")],
)
def test_training_equals_the_loop_by_hand(
    tmp_path: Path, precision: str, accumulated: int, strength: float | str
) -> None:
    dtype = torch.float64 if precision == "64-true" else torch.float32
    half = {"bf16-mixed": torch.bfloat16, "fp16": torch.float16}.get(precision)
    model = network(dtype)
    by_hand = copy.deepcopy(model)
    plugin: dict[str, Any] = {"precision": precision}
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16", init_scale=256.0)
    if precision == "fp16":
        own_scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        plugin = {"plugins": MixedPrecision("16-mixed", "cpu", scaler=own_scaler)}
    callback = FeatureFlowCallback(strength, strength)
    trainer(tmp_path, callback, accumulate_grad_batches=accumulated, **plugin).fit(Classifier(model), loader(dtype))

    flow = fp.FeatureFlow(by_hand, strength, strength)
    optimizer = optimizer_of(by_hand)
    for _ in range(4):
        for index, (images, labels) in enumerate(loader(dtype)):
            with torch.autocast("cpu", dtype=half, enabled=half is not None, cache_enabled=False):
                loss = functional.cross_entropy(by_hand(images), labels)
                loss = loss + flow.penalty()
            scaler.scale(loss / accumulated).backward()
            if (index + 1) % accumulated == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    assert flow.coefficients is not None and flow.coefficients["gradient"] > 0
    flow.close()
    assert_equal_weights(model, by_hand, 1e-10 if dtype == torch.float64 else 1e-5)
    if isinstance(strength, str):
        assert callback.state_dict()["flow"]["coefficients"] == pytest.approx(flow.coefficients, rel=1e-6)


def test_gradients_differ_without_it(tmp_path: Path) -> None:
    """The comparison above would be empty if the penalty were too small to be seen in it."""
    followed, plain = network(), network()
    trainer(tmp_path, FeatureFlowCallback(0.3, 0.3), max_epochs=1).fit(Classifier(followed), loader())
    trainer(tmp_path, None, max_epochs=1).fit(Classifier(plain), loader())
    with pytest.raises(AssertionError):
        assert_equal_weights(followed, plain, 1e-3)


@pytest.mark.parametrize("when", ["after validation", "after the epoch", "within the calibration"])
def test_resumed_training_equals_the_uninterrupted_one(tmp_path: Path, when: str) -> None:
    if when == "within the calibration":
        checkpoint = {"every_n_train_steps": 2 * BATCHES}  # at the end of an epoch: Lightning reads its data anew
    else:
        checkpoint = {"every_n_epochs": 3, "save_on_train_epoch_end": when == "after the epoch"}
    validation = loader() if when == "after validation" else None

    def fit(model: nn.Module, path: str | None) -> tuple[FeatureFlowCallback, Any]:
        callback = FeatureFlowCallback("50%", target_dead=0.3)
        saving = ModelCheckpoint(tmp_path / str(path is None), save_top_k=-1, **checkpoint)
        running = trainer(tmp_path, None, callbacks=[callback, saving], max_epochs=5, enable_checkpointing=True)
        running.fit(Classifier(model), loader(), validation, ckpt_path=path)
        return callback, running

    whole, resumed = network(), network()
    callback, _ = fit(whole, None)
    saved = min((tmp_path / "True").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    state = torch.load(saved, weights_only=True)
    assert state["global_step"] == (2 if when == "within the calibration" else 3) * BATCHES
    again, _ = fit(resumed, str(saved))
    assert_equal_weights(resumed, whole, 0.0)
    assert again.state_dict() == callback.state_dict()
    assert again.state_dict()["flow"]["control"]["epoch"] == 5
    assert again.state_dict()["flow"]["control"]["strength"] != 1  # the controller has had something to do


def test_resuming_with_another_strength_is_refused(tmp_path: Path) -> None:
    first = trainer(tmp_path, FeatureFlowCallback("50%"), max_epochs=1)
    first.fit(Classifier(network()), loader())
    first.save_checkpoint(tmp_path / "kept.ckpt")
    model = network()
    with pytest.raises(ArtifactError, match="strengths"):
        trainer(tmp_path, FeatureFlowCallback("10%")).fit(
            Classifier(model), loader(), ckpt_path=str(tmp_path / "kept.ckpt")
        )
    assert hooks(model) == 0
