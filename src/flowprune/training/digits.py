"""The handwritten digits that come with scikit-learn: 1797 grey images of 8 x 8, enlarged."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from flowprune.errors import DataError
from flowprune.training.halves import Halves
from flowprune.training.splits import ImagesInMemory

_TEST_IMAGES = 500
_SIZE = 16


def digits(data_dir: str | Path | None, size: int | None, workers: int) -> Halves:
    """1297 training and 500 test images; which is which is fixed for good, and never depends on a run's seed."""
    size = _SIZE if size is None else size
    if size < 8:
        raise DataError(f"digits: size {size} is smaller than the 8 x 8 images; they can be enlarged only")
    from sklearn.datasets import load_digits  # takes a second to import, and few need it

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    enlarged = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    pixels = enlarged.round().clamp(0, 255).to(torch.uint8)
    targets = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    test, train = order[:_TEST_IMAGES], order[_TEST_IMAGES:]
    return Halves(
        ImagesInMemory(pixels[train], targets[train]),
        ImagesInMemory(pixels[test], targets[test]),
        10,
        (1, size, size),
        tuple("0123456789"),
    )
