"""Any data set that gives a picture and a label for a number: torch's, torchvision's, Hugging Face's, one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowprune.errors import DataError, MissingLibraryError
from flowprune.training.halves import Halves
from flowprune.training.locating import data_root
from flowprune.training.pictures import as_pixels
from flowprune.training.splits import ImagesInFolders


class Pairs(Protocol):
    """A data set: its length, and (picture, label) for a position; or a mapping of both, as Hugging Face's give it."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Any: ...


class Unified(Dataset[tuple[Tensor, int]]):
    """The pictures of such a data set as uint8 [C, H, W] of one size."""

    def __init__(self, pairs: Pairs, size: int | None) -> None:
        self.pairs, self.size = pairs, size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """uint8 [C, size, size] and the class."""
        pair = self.pairs[position]
        picture, label = _of_mapping(pair) if isinstance(pair, Mapping) else (pair[0], pair[1])
        pixels = _as_tensor(picture, position)
        if self.size is not None and tuple(pixels.shape[1:]) != (self.size, self.size):
            from torchvision.transforms import functional

            pixels = functional.resize(pixels, [self.size], antialias=True)
            pixels = functional.center_crop(pixels, [self.size, self.size])
        return pixels, int(label)


def halves_of(
    train: Pairs, test: Pairs, classes: int | None, names: Sequence[str], size: int | None, workers: int
) -> Halves:
    """Two data sets as the halves of one.

    Args:
        train, test: the data sets; pictures are Pillow's, arrays [H, W] or [H, W, C], or tensors [C, H, W], bytes or 0 to 1.
        classes: how many; as many as there are names, or those of the training labels, if None.
        names: of the classes.
        size: height and width; the pictures' own, which must then be equal, if None.
        workers: processes that read.

    Raises:
        DataError: a picture or label is something else.
    """
    first, second = Unified(train, size), Unified(test, size)
    shape = tuple(first[0][0].shape)
    if classes is None:
        classes = len(names) or 1 + max(first[position][1] for position in range(len(first)))
    return Halves(
        ImagesInFolders(first, len(first), workers),
        ImagesInFolders(second, len(second), workers),
        classes,
        (shape[0], shape[1], shape[2]),
        tuple(names),
    )


def huggingface(data_dir: str | Path | None, size: int | None, workers: int) -> Halves:
    """A folder that Hugging Face's ``datasets`` has written (``save_to_disk``), with a training and a test or validation split.

    Raises:
        MissingLibraryError: the library is not installed.
        DataError: the folder is none of its, or has no second split.
    """
    root = data_root("huggingface", data_dir)
    try:
        import datasets
    except ImportError as error:
        raise MissingLibraryError("data set huggingface needs datasets: pip install datasets") from error
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # the library raises its own and others' errors
        raise DataError(f"huggingface: {root} is no folder written by datasets (save_to_disk): {error}") from error
    if not isinstance(found, Mapping):
        found = found.train_test_split(test_size=0.2, seed=0)
    second = next((name for name in ("test", "validation", "val") if name in found), None)
    if "train" not in found or second is None:
        raise DataError(
            f"huggingface: {root} has the splits {', '.join(found)}; needed are train, and test or validation"
        )
    features = found["train"].features
    label = next((name for name in ("label", "labels") if name in features), None)
    names = getattr(features[label], "names", None) or () if label is not None else ()
    return halves_of(found["train"], found[second], None, names, 224 if size is None else size, workers)


def _of_mapping(pair: Mapping[str, Any]) -> tuple[Any, Any]:
    picture = next((pair[key] for key in ("image", "img", "pixel_values") if key in pair), None)
    label = next((pair[key] for key in ("label", "labels", "fine_label") if key in pair), None)
    if picture is None or label is None:
        raise DataError(f"a data set's entry has {', '.join(map(str, pair))}; needed are image and label")
    return picture, label


def _as_tensor(picture: Any, position: int) -> Tensor:
    if hasattr(picture, "convert"):
        return as_pixels(picture)
    if isinstance(picture, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(picture))
        picture = tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)
    if not isinstance(picture, Tensor) or picture.dim() != 3:
        raise DataError(f"picture {position} of the data set is a {type(picture).__name__}; needed is one [C, H, W]")
    if picture.is_floating_point():
        if not 0 <= float(picture.min()) <= float(picture.max()) <= 1:
            raise DataError(
                f"picture {position} of the data set is outside 0 to 1; leave its normalization to normalize="
            )
        picture = 255 * picture.float()
    whole: Tensor = picture.round().to(torch.uint8) if picture.is_floating_point() else picture.to(torch.uint8)
    return whole.contiguous()
