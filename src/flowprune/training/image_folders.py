"""Pictures in folders, a folder a class, and Tiny ImageNet, which is nearly that."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowprune.errors import DataError, FlowpruneWarning, counted
from flowprune.training.halves import Halves
from flowprune.training.locating import data_folder, data_root
from flowprune.training.pictures import is_readable, read_picture
from flowprune.training.splits import ImagesInFolders

# torchvision takes seconds to import, so it is imported where it is used: not every command needs it.

HELD_OUT = ("val", "test", "valid", "validation")
"""What the folder of the pictures that are not trained on may be called."""
TEST_SHARE = 0.2
"""The share of each class that a drawn split holds out."""
_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")

Samples = list[tuple[str, int]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files and their classes; a picture is scaled until its short side is ``size`` and cut to the square in the
    middle.
    """

    def __init__(self, samples: Samples, size: int) -> None:
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """uint8 [3, size, size] and the class."""
        file, target = self.samples[position]
        return read_picture(file, self.size), target


def imagefolder(data_dir: str | Path | None, size: int | None, workers: int, unreadable: str = "refuse") -> Halves:
    """The data folder's ``train/CLASS/*`` and ``val/CLASS/*`` (or ``test``, ``valid``, ``validation``); or one folder
    ``CLASS/*``, of which a fifth of every class is held out, the same one every time.

    Raises:
        DataError: the folder is laid out in another way; the message says what to do.
    """
    root = data_root("imagefolder", data_dir)
    second = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if (root / "train").is_dir() and second is not None:
        train, test = _folders(root / "train"), _folders(root / second)
        if train.classes != test.classes:
            odd = sorted(set(train.classes) ^ set(test.classes))
            raise DataError(f"imagefolder: {root}: the classes of train and {second} differ ({', '.join(odd[:3])})")
        halves = train.samples, test.samples
    else:
        if second is not None:
            raise DataError(
                f"imagefolder: {root} has {second} but no train; name the folder of the training pictures train"
            )
        train = _folders(_flat(root))
        halves = _drawn(train.samples, len(train.classes), root)
    names = tuple(train.classes)
    first, held_out = (_readable(samples, unreadable, root) for samples in halves)
    return _pictures(first, held_out, names, 224 if size is None else size, workers)


def tinyimagenet(data_dir: str | Path | None, size: int | None, workers: int) -> Halves:
    """From the folder ``tiny-imagenet-200``: 200 classes, 100,000 training images; its labelled ``val`` half is the
    test.
    """
    needed = ["train", "val/images", "val/val_annotations.txt"]
    folder = data_folder("tinyimagenet", data_dir, "tiny-imagenet-200", needed)
    train = _folders(folder / "train")
    test: Samples = []
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        name, label, *_ = line.split("\t")
        picture = folder / "val" / "images" / name
        if label not in train.class_to_idx or not picture.is_file():
            raise DataError(f"tinyimagenet: {folder} is half there: {picture} of class {label}; unpack it again")
        test.append((str(picture), train.class_to_idx[label]))
    return _pictures(train.samples, test, tuple(train.classes), 64 if size is None else size, workers)


def _flat(root: Path) -> Path:
    """The one folder that holds a folder a class.

    Raises:
        DataError: there is none; the message says what there is instead.
    """
    if (root / "train").is_dir():
        return root / "train"
    beside = next((name for name in HELD_OUT if (root.parent / name).is_dir()), None)
    if root.name == "train" and beside is not None:
        raise DataError(
            f"imagefolder: {root} is one half only, {beside} lies beside it; point --data-dir at {root.parent}"
        )
    if _holds_pictures(root):
        raise DataError(
            f"imagefolder: pictures lie in {root} itself; put those of a class into a folder named like the class"
        )
    inner = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if not any(_holds_pictures(folder) for folder in inner):
        deeper = next((folder for folder in inner if (folder / "train").is_dir()), None)
        if deeper is None and len(inner) == 1 and any(_holds_pictures(folder) for folder in inner[0].glob("*/")):
            deeper = inner[0]
        hint = f"; did you mean --data-dir {deeper}?" if deeper is not None else ""
        raise DataError(
            f"imagefolder: looked for {root / 'train'} and {root / 'val'}, or a folder a class in {root}, and found no "
            f"pictures; point --data-dir at their folder{hint}"
        )
    return root


def _holds_pictures(folder: Path) -> bool:
    return any(file.suffix.lower() in _ENDINGS for file in folder.iterdir() if file.is_file())


def _drawn(samples: Samples, classes: int, root: Path) -> tuple[Samples, Samples]:
    """Training and held-out pictures; of every class a fifth is held out, at least one."""
    generator = torch.Generator().manual_seed(0)
    train: Samples = []
    test: Samples = []
    for label in range(classes):
        own = [sample for sample in samples if sample[1] == label]
        if len(own) < 2:
            raise DataError(
                f"imagefolder: {Path(own[0][0]).parent} holds 1 picture; a split drawn from {root} needs 2 of every class"
            )
        count = max(1, round(TEST_SHARE * len(own)))
        held_out = set(torch.randperm(len(own), generator=generator)[:count].tolist())
        test += [sample for position, sample in enumerate(own) if position in held_out]
        train += [sample for position, sample in enumerate(own) if position not in held_out]
    return train, test


def _readable(samples: Samples, unreadable: str, root: Path) -> Samples:
    """The samples; without those that cannot be read, if these are to be skipped."""
    if unreadable != "skip":
        return samples
    with ThreadPoolExecutor() as pool:
        fine = list(pool.map(lambda sample: is_readable(sample[0]), samples))
    left = [sample[0] for sample, good in zip(samples, fine, strict=True) if not good]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        count, be = counted(len(left), "picture"), "is" if len(left) == 1 else "are"
        message = f"imagefolder: {count} of {root} cannot be read and {be} left out: {', '.join(left[:3])}{more}"
        warnings.warn(message, FlowpruneWarning, stacklevel=2)
    return [sample for sample, good in zip(samples, fine, strict=True) if good]


def _folders(folder: Path) -> Any:
    from torchvision import datasets

    try:
        return datasets.ImageFolder(str(folder), is_valid_file=lambda file: Path(file).suffix.lower() in _ENDINGS)
    except FileNotFoundError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{folder} holds no pictures in a folder a class: {reason}") from error


def _pictures(train: Samples, test: Samples, names: Sequence[str], size: int, workers: int) -> Halves:
    return Halves(
        ImagesInFolders(Pictures(train, size), len(train), workers),
        ImagesInFolders(Pictures(test, size), len(test), workers),
        len(names),
        (3, size, size),
        tuple(names),
    )
