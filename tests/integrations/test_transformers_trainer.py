"""The mix-in in real trainings by transformers' ``Trainer``, beside the same training written by hand."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from trained_alike import assert_equal_weights, hooks
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import flowprune as fp
from flowprune.errors import ArtifactError, MissingLibraryError, ModelError, RecipeError
from flowprune.integrations.transformers import FeatureFlowMixin, FeatureFlowTrainer

IMAGES, BATCH, RATE = 40, 8, 0.01


class Images(Dataset[dict[str, Tensor]]):
    """What a vision model of transformers is trained on."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(IMAGES, 3, 16, 16, generator=generator)
        self.labels = torch.randint(10, (IMAGES,), generator=generator)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}

    def batches(self) -> list[dict[str, Tensor]]:
        places = [slice(start, start + BATCH) for start in range(0, IMAGES, BATCH)]
        return [{"pixel_values": self.pixels[place], "labels": self.labels[place]} for place in places]


def resnet() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=10, **sizes))


def vision_transformer() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "intermediate_size": 32}
    return ViTForImageClassification(
        ViTConfig(num_labels=10, num_hidden_layers=2, num_attention_heads=2, hidden_dropout_prob=0.0, **sizes)
    )


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "epoch"}
    plain = {"lr_scheduler_type": "constant", "optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0.0}
    sizes = {"per_device_train_batch_size": BATCH, "num_train_epochs": 4, "train_sampling_strategy": "sequential"}
    return TrainingArguments(str(folder), **{**quiet, **plain, **sizes, **options})


def trainer(kind: type[Trainer], model: nn.Module, args: TrainingArguments, **options: Any) -> Any:
    return kind(model=model, args=args, train_dataset=Images(), eval_dataset=Images(), **options)


@pytest.mark.parametrize("make", [resnet, vision_transformer])
@pytest.mark.parametrize(
    ("accumulated", "bf16", "strength", "mended"),
    [(1, False, "50%", False), (2, False, "50%", False), (2, False, 0.3, True), (2, True, "50%", True)],
)
def test_training_equals_the_loop_by_hand(
    tmp_path: Path, make: Any, accumulated: int, bf16: bool, strength: float | str, mended: bool
) -> None:
    model = make()
    by_hand = copy.deepcopy(model)
    flow_options = {"gradient": strength, "curvature": strength}
    args = arguments(tmp_path, gradient_accumulation_steps=accumulated, bf16=bf16)
    running = trainer(FeatureFlowTrainer, model, args, flow=flow_options)
    # transformers' ResNet ignores the number of items it is given, and the Trainer does not divide its loss unless told so.
    running.model_accepts_loss_kwargs = running.model_accepts_loss_kwargs and not mended
    running.train()

    flow = fp.FeatureFlow(by_hand, **flow_options)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=RATE)
    batches = Images().batches()
    for _ in range(4):
        for start in range(0, len(batches), accumulated):
            together = batches[start : start + accumulated]
            for batch in together:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    task_loss = by_hand(**batch).loss
                divided = 1 if make is resnet and not mended else len(together)
                minimised = task_loss.float() / divided
                penalty = flow.penalty(minimised.detach() * len(together)) / len(together)
                (minimised + penalty).backward()
            optimizer.step()
            optimizer.zero_grad()
    flow.close()
    assert flow.coefficients is not None
    assert_equal_weights(model, by_hand, 1e-5)
    assert hooks(model) == 0 and running.feature_flow is None


def test_weights_differ_without_it(tmp_path: Path) -> None:
    """The comparison above would be empty if the penalty were too small to be seen in it."""
    followed, plain = resnet(), resnet()
    trainer(FeatureFlowTrainer, followed, arguments(tmp_path), flow={"gradient": 0.3}).train()
    trainer(Trainer, plain, arguments(tmp_path)).train()
    with pytest.raises(AssertionError):
        assert_equal_weights(followed, plain, 1e-3)


@pytest.mark.parametrize("by", ["the user's function", "label smoothing"])
def test_loss_computed_elsewhere(tmp_path: Path, by: str) -> None:
    """The gradient of one step of two batches: of the loss, and of the mean penalty."""

    def summed(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    def own(outputs: Any, labels: Tensor) -> Tensor:
        if by == "label smoothing":
            return nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.1)
        return nn.functional.cross_entropy(outputs.logits, labels)

    model = vision_transformer()
    by_hand = copy.deepcopy(model)
    args = arguments(
        tmp_path,
        gradient_accumulation_steps=2,
        max_steps=1,
        label_smoothing_factor=0.1 if by == "label smoothing" else 0,
    )
    function = {"compute_loss_func": summed} if by != "label smoothing" else {}
    plain = copy.deepcopy(model)
    trainer(Trainer, plain, args, **function).train()
    trainer(FeatureFlowTrainer, model, args, flow={"gradient": 2.0}, **function).train()

    flow = fp.FeatureFlow(by_hand, 2.0)
    task = []
    for batch in Images().batches()[:2]:
        task.append(own(by_hand(batch["pixel_values"]), batch["labels"]))
    penalty = flow.penalty()  # of both forwards, as if they had been one batch
    gradients = torch.autograd.grad(penalty, list(by_hand.parameters()), allow_unused=True)
    flow.close()
    for mine, theirs, gradient in zip(model.parameters(), plain.parameters(), gradients, strict=True):
        expected = torch.zeros_like(mine) if gradient is None else -RATE * gradient
        torch.testing.assert_close(mine - theirs, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("saved_by", ["epoch", "steps", "steps within an epoch"])
def test_resumed_training_equals_the_uninterrupted_one(tmp_path: Path, saved_by: str) -> None:
    steps = IMAGES // BATCH
    saving: dict[str, Any] = {
        "epoch": {"save_strategy": "epoch"},
        "steps": {"save_strategy": "steps", "save_steps": steps},
        "steps within an epoch": {"save_strategy": "steps", "save_steps": steps + 2},
    }[saved_by]
    args = arguments(tmp_path, num_train_epochs=5, train_sampling_strategy="random", seed=3, **saving)
    flow = {"gradient": "50%", "target_dead": 0.3}
    whole, resumed = resnet(), resnet()
    first = trainer(FeatureFlowTrainer, whole, args, flow=flow)
    first.train()
    step = saving.get("save_steps", steps)
    again = trainer(FeatureFlowTrainer, resumed, args, flow=flow)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_equal_weights(resumed, whole, 0.0)
    assert again.state.stateful_callbacks == first.state.stateful_callbacks
    control = again.state.stateful_callbacks["FeatureFlow"]["flow"]["control"]
    assert control["epoch"] == 5 and control["strength"] != 1  # the controller has had something to do


def test_resuming_goes_on_with_the_callbacks_of_the_checkpoint_too(tmp_path: Path) -> None:
    """``restore_callback_states_from_checkpoint`` makes callbacks anew; ours needs none of that."""
    args = arguments(tmp_path, save_strategy="epoch", restore_callback_states_from_checkpoint=True)
    whole, resumed = resnet(), resnet()
    trainer(FeatureFlowTrainer, whole, args, flow={"gradient": "50%"}).train()
    again = trainer(FeatureFlowTrainer, resumed, args, flow={"gradient": "50%"})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert_equal_weights(resumed, whole, 0.0)


def test_evaluation_takes_no_part_and_the_penalty_is_logged(tmp_path: Path) -> None:
    evaluated, plain = resnet(), resnet()
    options = {"num_train_epochs": 2, "logging_strategy": "steps", "logging_steps": 1}
    flow = {"gradient": 0.3, "target_dead": 0.3}
    watched = trainer(
        FeatureFlowTrainer, evaluated, arguments(tmp_path, eval_strategy="steps", eval_steps=1, **options), flow=flow
    )
    watched.train()
    trainer(FeatureFlowTrainer, plain, arguments(tmp_path, **options), flow=flow).train()
    assert_equal_weights(evaluated, plain, 0.0)
    model = resnet()
    with fp.FeatureFlow(model, 0.3) as by_hand:
        task_loss = model(**Images().batches()[0]).loss.item()
        penalty = by_hand.penalty().item()
    first = next(entry for entry in watched.state.log_history if "loss" in entry)
    assert first["flow_penalty"] == pytest.approx(penalty, rel=1e-5)
    assert first["loss"] == pytest.approx(task_loss + penalty, rel=1e-5)
    later = [entry for entry in watched.state.log_history if "flow_strength" in entry]
    assert later and all(0 <= entry["flow_dead_share"] < 1 for entry in later)
    assert "flow_penalty" not in watched.evaluate() and watched.predict(Images()).predictions.shape == (IMAGES, 10)


def test_mixed_into_a_trainer_of_ones_own(tmp_path: Path) -> None:
    class Doubling(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss, outputs = super().compute_loss(*args, **{**kwargs, "return_outputs": True})
            return (2 * loss, outputs) if kwargs.get("return_outputs") else 2 * loss

    class Mine(FeatureFlowMixin, Doubling):
        pass

    model, by_hand = resnet(), resnet()
    trainer(Mine, model, arguments(tmp_path, max_steps=1), flow={"gradient": 0.3}).train()
    with fp.FeatureFlow(by_hand, 0.3) as flow:
        (2 * by_hand(**Images().batches()[0]).loss + flow.penalty()).backward()
    torch.optim.SGD(by_hand.parameters(), lr=RATE).step()
    assert_equal_weights(model, by_hand, 1e-6)


def test_what_was_trained_can_be_pruned_and_trained_on(tmp_path: Path) -> None:
    pixels = {"pixel_values": torch.randn(2, 3, 16, 16)}
    for make in (resnet, vision_transformer):
        model = make()
        trainer(FeatureFlowTrainer, model, arguments(tmp_path, bf16=True), flow={"gradient": "50%"}).train()
        model = model.float()
        plan = fp.plan(model, pixels, importance=fp.importance.L2(), macs=0.5)
        smaller = fp.prune(model, plan)
        assert fp.measure(smaller, pixels).macs <= 0.5 * fp.measure(model, pixels).macs
        once = arguments(tmp_path, num_train_epochs=1)
        trainer(FeatureFlowTrainer, smaller, once, flow={"gradient": 0.1}).train()
        assert torch.isfinite(smaller(**pixels).logits).all()


def test_mistakes_are_one_line_and_leave_no_hooks(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no strength"):
        trainer(FeatureFlowTrainer, resnet(), arguments(tmp_path), flow={"gradient": "5"})
    with pytest.raises(TypeError, match="gradeint"):
        trainer(FeatureFlowTrainer, resnet(), arguments(tmp_path), flow={"gradeint": "5%"})
    running = trainer(FeatureFlowTrainer, resnet(), arguments(tmp_path), flow={"gradient": "5%"})
    running.model_wrapped = nn.DataParallel(running.model)  # what it does by itself where it sees several GPUs
    with pytest.raises(ModelError, match="DataParallel"):
        running.train()
    running = trainer(FeatureFlowTrainer, resnet(), arguments(tmp_path), flow={"gradient": "5%"})
    running.model_wrapped = type("FSDPResNet", (nn.Sequential,), {})(running.model)  # what fully_shard makes of it
    with pytest.raises(ModelError, match="sharded by FSDP"):
        running.train()

    class Breaking(Images):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            if index == IMAGES - 1:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    model = resnet()
    broken = FeatureFlowTrainer(model, arguments(tmp_path), train_dataset=Breaking(), flow={"gradient": "5%"})
    with pytest.raises(OSError, match="the disk is gone"):
        broken.train()
    assert hooks(model) == 0

    args = arguments(tmp_path, save_strategy="epoch", num_train_epochs=2)
    trainer(FeatureFlowTrainer, resnet(), args, flow={"gradient": "50%"}).train()
    with pytest.raises(ArtifactError, match="strengths"):
        trainer(FeatureFlowTrainer, resnet(), args, flow={"gradient": "10%"}).train(resume_from_checkpoint=True)


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "flowprune.integrations.transformers")
    with pytest.raises(MissingLibraryError, match=r"pip install 'flowprune\[transformers\]'") as caught:
        importlib.import_module("flowprune.integrations.transformers")
    assert "\n" not in str(caught.value) and isinstance(caught.value, ImportError)
