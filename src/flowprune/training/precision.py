"""float32 or bfloat16: whichever trains a network faster on this processor, by a second of steps in turns.

No rule would do: bfloat16 halves the time where processors compute in it, and takes many times as long where they pretend to.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing.structural_copy import structural_copy
from flowprune.errors import ArtifactError
from flowprune.training.data import Data
from flowprune.training.settings import TrainingSettings

Precision = Literal["float32", "bfloat16"]

PRECISION = "precision.json"
MEASURED_SECONDS = 1.0
WORTH_MEASURING = 60.0
"""Seconds in float32. A shorter training gains nothing to speak of, and had better be the same everywhere."""
CLEARLY_FASTER = 1.25
"""Less than that is not worth rounding for, and near 1 the clock would decide anew every time."""
_FIRST_IMAGES = 8
_KNOWN: dict[str, Precision] = {"float32": "float32", "bfloat16": "bfloat16"}


@dataclass(frozen=True)
class MeasuredPrecision:
    """What was chosen, and why.

    Attributes:
        precision: "float32" or "bfloat16".
        seconds_an_image: of a training step by precision, over all networks and processes; one that a network does not run in is
            missing.
        threads: of torch, at the time.
    """

    precision: Precision
    seconds_an_image: dict[str, float]
    threads: int

    def __str__(self) -> str:
        """For people: what is fast, and by how much."""
        rates = [f"{name} {1 / seconds:.0f}" for name, seconds in self.seconds_an_image.items()]
        return f"precision {self.precision} (measured, images a second: {', '.join(rates)})"


def settled_precision(
    accelerator: Accelerator,
    model: nn.Module,
    data: Data,
    settings: TrainingSettings,
    *,
    folder: Path | None,
    resume: bool,
    begun: Precision | None,
) -> Precision:
    """What the settings say; where they leave it open, what a resumed training was begun in, else what is measured to be faster.

    Args:
        accelerator, model, data, settings: of the training.
        folder: where ``precision.json`` is kept; None keeps none.
        resume: whether what the folder has is gone on with.
        begun: what the checkpoint says; None if there is none.
    """
    if folder is not None and not resume and accelerator.is_main_process:
        (folder / PRECISION).unlink(missing_ok=True)  # an older training's
    if settings.precision != "auto":
        return settings.precision
    kept = begun or (read_precision(folder) if folder is not None and resume else None)
    if kept is not None or settings.epochs == 0:
        return kept or "float32"
    measured = measured_precision(accelerator, [model], data, batch_size=settings.batch_size, epochs=settings.epochs)
    if folder is not None and accelerator.is_main_process:
        write_precision(folder, measured)  # now: a training killed in its first epoch goes on in the same one
    return measured.precision


def measured_precision(
    accelerator: Accelerator, models: Iterable[nn.Module], data: Data, *, batch_size: int, epochs: int
) -> MeasuredPrecision:
    """Find out which precision trains fastest; every process comes to the same answer.

    Args:
        accelerator: whose processes share the training.
        models: the networks that are trained, on their device. Copies of them are measured, about a second each.
        data: what they are trained on.
        batch_size: images a step, over all processes.
        epochs: of the training.
    """
    share = max(2, batch_size // accelerator.num_processes)
    ((images, targets),) = data.batches("train", batch_size=share, count=1)
    images_of_training = max(1, epochs * len(data.train)) / accelerator.num_processes
    total = torch.zeros(2, dtype=torch.float64)
    for model in models:
        found = seconds_an_image(model, images, targets, least=WORTH_MEASURING / images_of_training)
        total += torch.tensor([found["float32"], found.get("bfloat16", math.inf)], dtype=torch.float64)
    # float32 for accelerators that have no float64
    together = accelerator.reduce(total.float().to(accelerator.device), reduction="sum").tolist()
    seconds = dict(zip(("float32", "bfloat16"), together, strict=True))
    short = seconds["float32"] * images_of_training < WORTH_MEASURING * accelerator.num_processes
    chosen: Precision = "float32"
    if not short and seconds["float32"] > CLEARLY_FASTER * seconds["bfloat16"]:
        chosen = "bfloat16"
    finite = {name: number for name, number in seconds.items() if math.isfinite(number)}
    return MeasuredPrecision(chosen, finite, torch.get_num_threads())


def seconds_an_image(model: nn.Module, images: Tensor, targets: Tensor, *, least: float = 0.0) -> dict[str, float]:
    """Seconds of one forward and backward pass for each of its images, by precision, on a copy: ``model`` stays as it is.

    Steps begin with a few images and double them as long as the time lasts, so that a processor without bfloat16 is found out
    before it has cost much.

    Args:
        model: a classifier, on its device.
        images: normalized, of one step: [N, C, H, W].
        targets: [N].
        least: stop after the first look where float32 takes less than this.
    """
    device = model_device(model)
    copied = structural_copy(model, _own).to(memory_format=torch.channels_last).train()
    images, targets = images.to(device).contiguous(memory_format=torch.channels_last), targets.to(device)
    ends = time.perf_counter() + MEASURED_SECONDS
    size = min(_FIRST_IMAGES, len(images))
    precisions = ["float32", "bfloat16"]
    found: dict[str, float] = {}
    found_at = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        while True:
            began = time.perf_counter()
            best = dict.fromkeys(precisions, math.inf)
            for turn in range(3):
                for precision in list(precisions):
                    try:
                        spent = _step(copied, images[:size], targets[:size], precision == "bfloat16")
                    except RuntimeError:
                        if precision == "float32":
                            raise
                        # An operator that there is no bfloat16 of, here.
                        precisions.remove(precision)
                        del best[precision]
                        continue
                    if turn:  # the first one looks for kernels
                        best[precision] = min(best[precision], spent / size)
            if found_at == size:  # the whole step once more
                best = {precision: min(found[precision], best[precision]) for precision in precisions}
            found, found_at = best, size
            larger = min(2 * size, len(images))
            expected = (time.perf_counter() - began) * larger / size
            if found["float32"] < least or time.perf_counter() + expected > ends:
                return found
            size = larger


def _step(model: nn.Module, images: Tensor, targets: Tensor, bfloat16: bool) -> float:
    model.zero_grad(set_to_none=True)
    _wait(images.device)
    began = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        logits = model(images)
    functional.cross_entropy(logits.float(), targets).backward()
    _wait(images.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _own(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


def write_precision(folder: Path, measured: MeasuredPrecision) -> None:
    """Write ``precision.json``, as a whole or not at all."""
    temporary = folder / f"{PRECISION}.partial"
    temporary.write_text(json.dumps(asdict(measured), indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / PRECISION)


def read_precision(folder: Path) -> Precision | None:
    """What ``precision.json`` of a folder says; None if there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    file = folder / PRECISION
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return _KNOWN[content["precision"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} is damaged; remove it to have the precision measured anew") from error
