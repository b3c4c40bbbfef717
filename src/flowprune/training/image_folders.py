"""Pictures in folders, a folder a class, and Tiny ImageNet, which is nearly that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from flowprune.errors import DataError
from flowprune.training.locating import data_folder, data_root
from flowprune.training.splits import ImagesInFolders

# torchvision takes seconds to import, so it is imported where it is used: not every command needs it.

_Read = tuple[ImagesInFolders, ImagesInFolders, int, tuple[int, int, int]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files and their classes; a picture is scaled until its short side is ``size`` and cut to the square in the
    middle.
    """

    def __init__(self, samples: list[tuple[str, int]], size: int) -> None:
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """uint8 [3, size, size] and the class."""
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms import functional

        file, target = self.samples[position]
        try:
            picture: Any = decode_image(file, ImageReadMode.RGB)
        except RuntimeError as error:
            raise DataError(f"cannot read the picture {file}; remove or replace it") from error
        if tuple(picture.shape[1:]) != (self.size, self.size):
            picture = functional.resize(picture, [self.size], antialias=True)
            picture = functional.center_crop(picture, [self.size, self.size])
        return picture, target


def imagefolder(data_dir: str | Path | None, size: int | None, workers: int) -> _Read:
    """The data folder's ``train/CLASS/*`` and ``val/CLASS/*`` (or ``test/CLASS/*``)."""
    root = data_root("imagefolder", data_dir)
    second = "val" if (root / "val").is_dir() or not (root / "test").is_dir() else "test"
    for part in ("train", second):
        if not (root / part).is_dir():
            raise DataError(f"imagefolder: looked for {root / part} (a folder a class); point --data-dir at its parent")
    train, test = _folders(root / "train"), _folders(root / second)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"imagefolder: {root}: the classes of train and {second} differ ({', '.join(odd[:3])})")
    return _pictures(train.samples, test.samples, len(train.classes), 224 if size is None else size, workers)


def tinyimagenet(data_dir: str | Path | None, size: int | None, workers: int) -> _Read:
    """From the folder ``tiny-imagenet-200``: 200 classes, 100,000 training images; its labelled ``val`` half is the
    test.
    """
    needed = ["train", "val/images", "val/val_annotations.txt"]
    folder = data_folder("tinyimagenet", data_dir, "tiny-imagenet-200", needed)
    train = _folders(folder / "train")
    test: list[tuple[str, int]] = []
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        name, label, *_ = line.split("\t")
        picture = folder / "val" / "images" / name
        if label not in train.class_to_idx or not picture.is_file():
            raise DataError(f"tinyimagenet: {folder} is half there: {picture} of class {label}; unpack it again")
        test.append((str(picture), train.class_to_idx[label]))
    return _pictures(train.samples, test, len(train.classes), 64 if size is None else size, workers)


def _folders(folder: Path) -> Any:
    from torchvision import datasets

    try:
        return datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{folder} holds no pictures in a folder a class: {reason}") from error


def _pictures(
    train: list[tuple[str, int]], test: list[tuple[str, int]], classes: int, size: int, workers: int
) -> _Read:
    return (
        ImagesInFolders(Pictures(train, size), len(train), workers),
        ImagesInFolders(Pictures(test, size), len(test), workers),
        classes,
        (3, size, size),
    )
