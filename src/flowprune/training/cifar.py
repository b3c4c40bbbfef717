"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 training and 10,000 test images of 32 x 32, read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flowprune.errors import DataError
from flowprune.training.halves import Halves
from flowprune.training.locating import data_folder
from flowprune.training.splits import ImagesInMemory

if TYPE_CHECKING:
    from torchvision import datasets

# torchvision takes seconds to import, so it is imported where it is used: not every command needs it.


def cifar10(data_dir: str | Path | None, size: int | None, workers: int) -> Halves:
    """From the folder ``cifar-10-batches-py``."""
    from torchvision import datasets

    return _read("cifar10", datasets.CIFAR10, data_dir, size, classes=10)


def cifar100(data_dir: str | Path | None, size: int | None, workers: int) -> Halves:
    """From the folder ``cifar-100-python``."""
    from torchvision import datasets

    return _read("cifar100", datasets.CIFAR100, data_dir, size, classes=100)


def _read(
    name: str, kind: type[datasets.CIFAR10], data_dir: str | Path | None, size: int | None, classes: int
) -> Halves:
    if size not in (None, 32):
        raise DataError(f"{name}: its images are 32 x 32, size {size} cannot be had")
    needed = [file for file, _ in (*kind.train_list, *kind.test_list)] + [kind.meta["filename"]]
    folder = data_folder(name, data_dir, kind.base_folder, needed)
    halves = []
    for train in (True, False):
        try:
            dataset = kind(str(folder.parent), train=train, download=False)
        except Exception as error:  # a checksum that differs, or a file that cannot be read
            raise DataError(f"{name}: the files in {folder} are damaged (checksum); unpack them again") from error
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
        halves.append(ImagesInMemory(images, torch.tensor(dataset.targets)))
    return Halves(halves[0], halves[1], classes, (3, 32, 32), tuple(dataset.classes))
