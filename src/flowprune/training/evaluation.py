"""How good a model is on the test images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.errors import DataError
from flowprune.training.data import Data

_BATCH, _BATCH_ON_CPU = 500, 125
"""Images a forward. The features of so few stay in a processor's cache from one layer to the next."""


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy in per cent, mean cross-entropy in nats, and how many images were seen."""

    top1: float
    loss: float
    images: int


Batches = Iterable[tuple[Tensor, Tensor]]
"""Images as the network takes them, float [N, C, H, W], and targets [N]: a DataLoader, or any other giver of batches."""


def evaluate(model: nn.Module, data: Data | Batches, *, batch_size: int | None = None) -> Evaluation:
    """Run all test images through the model on its device, in evaluation mode, and leave it as it was.

    Args:
        model: on any device.
        data: whose test images are used; or a DataLoader of yours, or other batches of (images, targets).
        batch_size: images a forward; as many as are fast on the device if None. Batches of yours are as large as they are.

    Raises:
        DataError: there is no image.

    Example:
        >>> import flowprune as fp
        >>> model = fp.models.create("vgg6", in_channels=1, width=4)
        >>> fp.evaluate(model, fp.load_data("digits")).images
        500
    """
    if isinstance(data, Data):
        sums = totals(model, data, batch_size=batch_size)
    else:
        device = next(model.parameters(), torch.empty(0)).device
        sums = _summed(model, ((images.to(device), targets.to(device)) for images, targets in data), device)
    hits, loss, images = sums.tolist()
    if not images:
        raise DataError("there is no image to evaluate on; give a loader that holds some, anew for each evaluation")
    return Evaluation(100 * hits / images, loss / images, int(images))


def totals(model: nn.Module, data: Data, *, batch_size: int | None = None, share: tuple[int, int] = (0, 1)) -> Tensor:
    """Of one process's share of the test images: right answers, summed loss, images (float32 [3] on the model's
    device).

    Args:
        model: on any device.
        data: whose test split is used.
        batch_size: images a forward; as many as are fast on the device if None.
        share: (rank, processes): every ``processes``-th image from ``rank`` on.
    """
    device = next(model.parameters(), torch.empty(0)).device
    return _summed(model, _test_batches(data, device, batch_size, share), device)


def right_answers(model: nn.Module, data: Data) -> Tensor:
    """Which test images the model names rightly: bool [images] on the CPU, in the order of the split.

    Args:
        model: on any device; it is left as it was.
        data: whose test split is used.
    """
    device = next(model.parameters(), torch.empty(0)).device
    found = [(logits.argmax(1) == targets).cpu() for logits, targets in _outputs(model, _test_batches(data, device))]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def _test_batches(
    data: Data, device: torch.device, batch_size: int | None = None, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of one process's share as the network takes them."""
    rank, processes = share
    batch_size = batch_size or (_BATCH_ON_CPU if device.type == "cpu" else _BATCH)
    positions = [chosen for chosen in torch.arange(rank, len(data.test), processes).split(batch_size) if len(chosen)]
    for images, targets in data.test.batches(positions, device):
        yield data.normalize(images).to(memory_format=torch.channels_last), targets


def _summed(model: nn.Module, batches: Batches, device: torch.device) -> Tensor:
    total = torch.zeros(3, device=device)
    for logits, targets in _outputs(model, batches):
        hits = (logits.argmax(1) == targets).sum()
        loss = functional.cross_entropy(logits, targets, reduction="sum")
        total += torch.stack([hits, loss, hits.new_tensor(len(targets))])
    return total


def _outputs(model: nn.Module, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and targets of every batch, in evaluation mode, without gradients; the model is left as it was."""
    with evaluating(model):
        for images, targets in batches:
            with torch.no_grad():
                logits = model(images).float()
            yield logits, targets
