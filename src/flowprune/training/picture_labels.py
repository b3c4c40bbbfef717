"""What a network sees in pictures: names of classes and probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowprune.training.pictures import read_picture
from flowprune.training.pixel_normalization import Normalization


def predicted(
    logits_of: Callable[[Tensor], Tensor],
    files: Sequence[Path],
    shape: tuple[int, int, int],
    normalize: Normalization,
    names: Sequence[str],
    top: int,
) -> list[dict[str, float]]:
    """For every picture the likeliest classes and their probabilities, likeliest first.

    Args:
        logits_of: the network: float32 [1, C, H, W] to logits [1, classes].
        files: the pictures.
        shape: (channels, height, width) the network takes; with one channel the pictures become grey.
        normalize: from bytes to what the network sees.
        names: of the classes; those beyond them are called by their number.
        top: how many are given.

    Raises:
        DataError: a file cannot be read.
    """
    found = []
    for file in files:
        pixels = read_picture(file, shape[1])
        if shape[0] == 1:
            # the weights of ITU-R BT.601, as torchvision's and Pillow's grey
            weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
            pixels = (pixels.float() * weights).sum(0, keepdim=True).round().to(torch.uint8)
        chances = logits_of(normalize(pixels[None])).float().softmax(1)[0]
        best = chances.topk(min(top, len(chances)))
        labels = [names[number] if number < len(names) else f"class {number}" for number in best.indices.tolist()]
        found.append(dict(zip(labels, best.values.tolist(), strict=True)))
    return found
