"""From bytes to what a network expects: (pixel / 255 - mean) / deviation, per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.errors import DataError, UnknownNameError, counted


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of each channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images [N, C, H, W] -> float32, of the same memory format."""
        shape = (1, -1, 1, 1)
        scale = torch.tensor([1 / (255 * deviation) for deviation in self.deviation], device=images.device).view(shape)
        shift = torch.tensor(
            [-mean / deviation for mean, deviation in zip(self.mean, self.deviation, strict=True)], device=images.device
        ).view(shape)
        return torch.addcmul(shift, images.float(), scale)


# Means and deviations of the training pixels; ImageNet's are torchvision's, and those of the pretrained CIFAR ResNets.
NORMALIZATIONS = {
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "digits": Normalization((0.3059,), (0.3189,)),
    "none": Normalization((0.0,), (1.0,)),
}


def normalization(choice: str | Sequence[Sequence[float]], channels: int) -> Normalization:
    """The normalization of a name, or of explicit (means, deviations), for images of so many channels.

    Raises:
        UnknownNameError: for a name nobody knows.
        DataError: where the number of channels differs, or a deviation is not above 0.
    """
    if isinstance(choice, str):
        if choice not in NORMALIZATIONS:
            raise UnknownNameError("normalization", choice, NORMALIZATIONS)
        found = NORMALIZATIONS[choice]
    else:
        mean, deviation = choice
        found = Normalization(tuple(map(float, mean)), tuple(map(float, deviation)))
    if choice == "none":
        found = Normalization(found.mean * channels, found.deviation * channels)
    if len(found.mean) != len(found.deviation):
        raise DataError(
            f"normalize: {choice!r} has {counted(len(found.mean), 'mean')} and {counted(len(found.deviation), 'deviation')}"
        )
    if len(found.mean) != channels:
        raise DataError(f"normalize: {choice!r} has {counted(len(found.mean), 'channel')}, the images have {channels}")
    if min(found.deviation) <= 0:
        raise DataError(f"normalize: deviations must be above 0, got {list(found.deviation)}")
    return found
