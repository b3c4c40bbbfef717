"""How good a model is on the test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprune.training.data import Data

_BATCH, _BATCH_ON_CPU = 500, 125
"""Images a forward. The features of so few stay in a processor's cache from one layer to the next."""


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy in per cent, mean cross-entropy in nats, and how many images were seen."""

    top1: float
    loss: float
    images: int


def evaluate(model: nn.Module, data: Data, *, batch_size: int | None = None) -> Evaluation:
    """Run all test images through the model on its device, in evaluation mode, and leave it as it was.

    Example:
        >>> import flowprune as fp
        >>> model = fp.models.create("vgg6", in_channels=1, width=4)
        >>> fp.evaluate(model, fp.load_data("digits")).images
        500
    """
    hits, loss, images = totals(model, data, batch_size=batch_size).tolist()
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
    tensor = next(model.parameters(), torch.empty(0))
    rank, processes = share
    batch_size = batch_size or (_BATCH_ON_CPU if tensor.device.type == "cpu" else _BATCH)
    positions = [chosen for chosen in torch.arange(rank, len(data.test), processes).split(batch_size) if len(chosen)]
    total = torch.zeros(3, device=tensor.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            for images, targets in data.test.batches(positions, tensor.device):
                ready = data.normalize(images).to(memory_format=torch.channels_last)
                logits = model(ready).float()
                hits = (logits.argmax(1) == targets).sum()
                loss = functional.cross_entropy(logits, targets, reduction="sum")
                total += torch.stack([hits, loss, hits.new_tensor(len(targets))])
    finally:
        for module, mode in modes.items():
            module.training = mode
    return total
