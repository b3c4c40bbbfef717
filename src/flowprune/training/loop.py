"""The training loop, for training and fine-tuning alike, on one or many devices, resumable after any death."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from flowprune.engine.interfaces import Outcome, Training
from flowprune.engine.steps import HeldMasks
from flowprune.errors import ModelError, OutputError
from flowprune.methods.regularizers.together.regularizers import Given, Regularizers
from flowprune.training.augmentation import augment, draws
from flowprune.training.checkpoint import (
    CHECKPOINT,
    append_metrics,
    check_settings,
    read_checkpoint,
    write_checkpoint,
    write_metrics,
)
from flowprune.training.data import Data
from flowprune.training.evaluation import totals
from flowprune.training.optimizer import optimizer_of
from flowprune.training.precision import settled_precision
from flowprune.training.processes import agree_on_buffers
from flowprune.training.progress import TrainingProgress
from flowprune.training.regularizing import KNOWN_MEASURES, usual_measures
from flowprune.training.schedule import learning_rate
from flowprune.training.settings import TrainingSettings
from flowprune.training.training_result import TrainingResult


def train(
    model: nn.Module,
    data: Data,
    settings: TrainingSettings,
    *,
    run_folder: str | Path | None = None,
    regularizer: Given = None,
    macs_left: Callable[[], float] | None = None,
    resume: bool = False,
    progress: bool = True,
    title: str = "training",
    each_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> TrainingResult:
    """Train ``model`` in place. It ends in training mode, on the device it was trained on.

    Devices, processes (DDP) and their number come from Accelerate: ``accelerate launch`` starts many. Each process
    takes its share of every batch. Random numbers come from ``settings.seed`` alone; the global generator is left as
    it was. What is masked (``fp.mask``) stays exactly zero.

    Args:
        model: any classifier of images.
        data: the images.
        settings: how to train.
        run_folder: receives ``metrics.jsonl``, after every epoch ``checkpoint.pt``, and ``precision.json`` where the precision was
            measured; nothing is written if None.
        regularizer: what acts on this very model, one or several.
        macs_left: for one that wants it, such as a flow with ``target_macs``: measures, once an epoch, the share of the MACs
            that a cut of what is dead would leave. Called in every process.
        resume: go on from the checkpoint in ``run_folder`` (from the start, if there is none), in the precision it has. ``model``
            must then be built exactly as for the first start. On the CPU the end is bit for bit that of a training never
            interrupted.
        progress: show a bar on standard error.
        title: of the bar.
        each_epoch: is given the figures of every epoch, in the first process; for trackers.

    Raises:
        ModelError: the loss is no longer a number.
        OutputError, ArtifactError: the checkpoint is of other settings, or damaged.

    Example:
        >>> import flowprune as fp
        >>> model = fp.models.create("vgg6", in_channels=1, width=4)
        >>> data = fp.load_data("digits", subset=64)
        >>> result = fp.train(model, data, fp.TrainingSettings(epochs=1), progress=False)
        >>> [epoch["epoch"] for epoch in result.history], result.precision
        ([1], 'float32')
    """
    accelerator = Accelerator(mixed_precision="no")
    folder = Path(run_folder) if run_folder is not None else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    state = read_checkpoint(folder) if resume and folder is not None else None
    begun = None if state is None else state["settings"]["precision"]
    precision = settled_precision(accelerator, model, data, settings, folder=folder, resume=resume, begun=begun)
    settings = settings.model_copy(update={"precision": precision})
    with _own_random_numbers(settings.seed, accelerator.device):
        run = _Run(accelerator, model, data, settings, regularizer, macs_left, folder)
        if folder is not None:
            run.restore(state)
        visible = progress and accelerator.is_main_process
        with TrainingProgress(title, settings.epochs * run.steps, len(run.history) * run.steps, visible) as bar:
            run.begin()
            for _ in range(len(run.history), settings.epochs):
                run.epoch(bar)
                if each_epoch is not None and accelerator.is_main_process:
                    each_epoch(dict(run.history[-1]))
    model.to(memory_format=torch.contiguous_format)
    model.train()
    if settings.epochs == 0:
        top1 = run.evaluate()["test_accuracy"]
        return TrainingResult([], top1, top1, precision)
    accuracies = [epoch["test_accuracy"] for epoch in run.history if epoch["test_accuracy"] is not None]
    return TrainingResult(run.history, accuracies[-1], max(accuracies), precision, run.outcomes)


class _Run:
    """One training under way."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        data: Data,
        settings: TrainingSettings,
        regularizer: Given,
        macs_left: Callable[[], float] | None,
        folder: Path | None,
    ) -> None:
        self.accelerator, self.model, self.data, self.settings = accelerator, model, data, settings
        self.folder = folder
        measures = usual_measures(model, lambda: data.example_input(2).to(accelerator.device), macs_left)
        self.regularizers = Regularizers(regularizer, measures)
        self.masks = HeldMasks(model)
        self.outcomes: tuple[Outcome, ...] = ()
        # Only many processes need a wrapper; a single one must leave the model as plain as it was.
        self.wrapped: nn.Module = accelerator.prepare_model(model) if accelerator.num_processes > 1 else model
        self.optimizer = optimizer_of(model, settings)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.fingerprint = {
            **settings.model_dump(mode="json"),
            "data": data.name,
            "training images": len(data.train),
            "with a regularizer": bool(self.regularizers),
            "regularizers": self.regularizers.several,
        }
        self.history: list[dict[str, Any]] = []
        self.steps = len(self._batches(torch.arange(len(data.train))))

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go back to the end of the checkpoint's epoch; to the very start if there is none."""
        if state is not None:
            assert self.folder is not None
            check_settings(self.folder, state, self.fingerprint)
            try:
                self.model.load_state_dict(state["model"])
            except RuntimeError as error:
                raise OutputError(
                    f"the checkpoint in {self.folder} is of another network; use another folder"
                ) from error
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])
            torch.set_rng_state(state["random"])
            if self.accelerator.device.type == "cuda" and state["cuda_random"] is not None:
                torch.cuda.set_rng_state(state["cuda_random"], self.accelerator.device)
            self.regularizers.load_state_dict(state["regularizer"])
            self.history = [dict(epoch) for epoch in state["history"]]
        if self.folder is not None and self.accelerator.is_main_process:
            write_metrics(self.folder, self.history)
            if state is None:
                # An older training's checkpoint, which this one would go on from if it were killed in its first epoch.
                (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def begin(self) -> None:
        """Tell the regularizers that the first step is next, or that the last one was made before."""
        self.masks.apply()
        self.regularizers.begin(Training(self.optimizer, self.settings.epochs, self.steps))
        if self.history and len(self.history) == self.settings.epochs:
            self.outcomes = self.regularizers.finish()

    def epoch(self, bar: TrainingProgress) -> None:
        """Train once over the training images, evaluate, and write everything down."""
        number = len(self.history) + 1
        began = time.perf_counter()
        sums = self._pass_over_training_images(bar)
        task_loss, penalty, hits, images = self.accelerator.reduce(sums, reduction="sum").tolist()
        training_seconds = time.perf_counter() - began
        if not torch.isfinite(torch.tensor(task_loss + penalty)):
            raise ModelError(f"the loss is no number any more in epoch {number}; lower lr or the penalty's strength")
        last = number == self.settings.epochs
        # Before the checkpoint, which carries what it changes.
        said: dict[str, Any] = {**dict.fromkeys(KNOWN_MEASURES), **self.regularizers.epoch_end()}
        if last:
            self.outcomes = self.regularizers.finish()
        evaluated = self.evaluate() if last or number % self.settings.evaluate_every == 0 else {}
        record = {
            "epoch": number,
            "task_loss": task_loss / images,
            "penalty": penalty / images,
            "train_accuracy": 100 * hits / images,
            "test_accuracy": evaluated.get("test_accuracy"),
            "test_loss": evaluated.get("test_loss"),
            "lr": self.optimizer.param_groups[0]["lr"],
            **said,
            "seconds": time.perf_counter() - began,
            "images_per_second": images / training_seconds,
        }
        self.history.append(record)
        if self.folder is not None:
            state = self._state()  # in every process: a regularizer may have to gather its state from all of them
            if self.accelerator.is_main_process:
                write_checkpoint(self.folder, state)
                append_metrics(self.folder, record)
        shown = f"test {evaluated['test_accuracy']:.2f} %" if evaluated else f"train {record['train_accuracy']:.2f} %"
        bar.figures(f"epoch {number}/{self.settings.epochs} loss {record['task_loss']:.3f} {shown}")

    def evaluate(self) -> dict[str, float]:
        """All test images, shared among the processes."""
        agree_on_buffers(self.accelerator, self.model)
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        sums = self.accelerator.reduce(totals(self.model, self.data, share=share), reduction="sum")
        hits, loss, images = sums.tolist()
        return {"test_accuracy": 100 * hits / images, "test_loss": loss / images}

    def _pass_over_training_images(self, bar: TrainingProgress) -> Tensor:
        """Task loss, penalty, right answers and images of this process, summed over its images."""
        settings, device = self.settings, self.accelerator.device
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        whole = self._batches(torch.randperm(len(self.data.train), generator=self.generator))
        batches = [chosen[rank::processes] for chosen in whole]
        # For the batches of all processes, so that their number does not change what an image looks like; and all before the first
        # step: a copy to a device that is busy waits for it.
        drawn = [one.share(rank, processes).to(device) for one in draws(settings.augmentation, whole, self.generator)]
        sums = torch.zeros(4, device=device)
        first_step = len(self.history) * self.steps
        self.wrapped.train()
        for step, (images, targets) in enumerate(self.data.train.batches(batches, device)):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(settings, first_step + step, self.steps)
            if settings.augmentation is not None:
                images = augment(images, settings.augmentation.crop, drawn[step])
            ready = self.data.normalize(images).to(memory_format=torch.channels_last)
            self.optimizer.zero_grad(set_to_none=True)
            logits = self._logits(ready)
            task_loss = functional.cross_entropy(logits.float(), targets)
            penalty = self.regularizers.penalty(task_loss.detach(), (ready, targets), logits)
            self.accelerator.backward(task_loss + penalty)
            self.regularizers.after_backward()
            self.optimizer.step()
            self.regularizers.after_step(self.optimizer, partial(self._loss, ready, targets))
            self.masks.apply()  # last: a regularizer may have moved weights, too
            count = len(targets)
            with torch.no_grad():
                right = (logits.argmax(1) == targets).sum()
                sums += torch.stack([task_loss * count, penalty.detach() * count, right, right.new_tensor(count)])
            bar.step()
        return sums

    def _logits(self, ready: Tensor) -> Tensor:
        enabled = self.settings.precision == "bfloat16"
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=enabled):
            logits: Tensor = self.wrapped(ready)
        return logits

    def _loss(self, ready: Tensor, targets: Tensor) -> Tensor:
        """The task loss of a batch once more, for regularizers that look ahead."""
        return functional.cross_entropy(self._logits(ready).float(), targets)

    def _batches(self, order: Tensor) -> list[Tensor]:
        """The batches of all processes. A last one too small for a batch norm (one image a process) is left out."""
        batches = list(order.split(self.settings.batch_size))
        if len(batches) > 1 and len(batches[-1]) < 2 * self.accelerator.num_processes:
            batches.pop()
        return batches

    def _state(self) -> dict[str, Any]:
        cuda = self.accelerator.device.type == "cuda"
        return {
            "settings": self.fingerprint,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.accelerator.device) if cuda else None,
            "regularizer": self.regularizers.state_dict(),
        }


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators (dropout draws from them) and put them back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
