"""A data set as training wants it: two splits, a normalization, and ready batches for whoever needs a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowprune.errors import DataError, FlowpruneError, MissingLibraryError, UnknownNameError
from flowprune.training.any_dataset import Pairs, halves_of, huggingface
from flowprune.training.cifar import cifar10, cifar100
from flowprune.training.digits import digits
from flowprune.training.halves import Halves
from flowprune.training.image_folders import imagefolder, tinyimagenet
from flowprune.training.pixel_normalization import Normalization, normalization
from flowprune.training.splits import Split, drawn, kept_if_small

_Reader = Callable[[str | Path | None, int | None, int], Halves]

_READERS: dict[str, _Reader] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tinyimagenet": tinyimagenet,
    "imagefolder": imagefolder,
    "huggingface": huggingface,
}
_USUAL = {"tinyimagenet": "imagenet", "imagefolder": "imagenet", "huggingface": "imagenet"}


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: as in the recipe.
        train, test: the splits.
        classes: how many there are.
        shape: (channels, height, width) of an image.
        normalize: from uint8 to what the network sees.
        names: of the classes, in the order of their numbers; empty where nobody said.
    """

    name: str
    train: Split
    test: Split
    classes: int
    shape: tuple[int, int, int]
    normalize: Normalization
    names: tuple[str, ...] = ()

    def example_input(self, images: int = 1) -> Tensor:
        """The first test images, normalized: float32 [images, C, H, W] on the CPU."""
        (batch, _), *_ = self._ready(self.test, [torch.arange(min(images, len(self.test)))], torch.device("cpu"))
        return batch

    def notes(self) -> dict[str, Any]:
        """What an artifact notes, JSON-able, so that it can name what is in a picture: shape, normalization, names."""
        return {
            "input": list(self.shape),
            "classes": self.classes,
            "class_names": list(self.names),
            "pixels": {"mean": list(self.normalize.mean), "deviation": list(self.normalize.deviation)},
        }

    def batches(
        self, split: str = "train", *, batch_size: int = 128, count: int | None = None, seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalized, unaugmented (images float32 [N, C, H, W], targets [N]) on the CPU, for criteria and profiles.

        Args:
            split: "train" or "test".
            batch_size: images a batch; the last one may be smaller.
            count: at most so many batches; all if None.
            seed: shuffles the images; None keeps their order.
        """
        chosen = self.train if split == "train" else self.test
        order = torch.arange(len(chosen))
        if seed is not None:
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
        return self._ready(chosen, order.split(batch_size)[:count], torch.device("cpu"))

    def _ready(
        self, split: Split, positions: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in split.batches(positions, device):
            yield self.normalize(images), targets


def data_sets() -> list[str]:
    """The names ``load_data`` knows."""
    return sorted(_READERS)


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    normalize: str | Sequence[Sequence[float]] | None = None,
    subset: int | None = None,
    seed: int = 0,
    size: int | None = None,
    workers: int = 0,
    unreadable: str = "refuse",
) -> Data:
    """Open a data set. Nothing is downloaded.

    Args:
        name: "digits" (comes with scikit-learn), "cifar10", "cifar100", "tinyimagenet", "imagefolder" or "huggingface".
        data_dir: the folder it lies in, as torchvision lays it out; else the environment variable FLOWPRUNE_DATA.
        normalize: "cifar10", "cifar100", "imagenet", "digits", "none", or (means, deviations); the set's usual one if
            None.
        subset: so many training images only, drawn by ``seed``. The test images are always all there.
        seed: of the subset.
        size: height and width: digits are enlarged to it (16), pictures in folders scaled and cut to it (224; 64 for
            Tiny ImageNet). CIFAR stays 32.
        workers: processes that decode pictures. Pictures that take up to 2 GiB of pixels are decoded once and stay in memory; more
            are decoded anew in every epoch.
        unreadable: what becomes of files of an "imagefolder" that are no pictures: "refuse", or "skip", which reads all of
            them once and names those it leaves out.

    Raises:
        UnknownNameError: nothing has this name.
        DataError: the data is missing, half there or damaged; the message says what was looked for where.

    Example:
        >>> import flowprune as fp
        >>> data = fp.load_data("digits", subset=100)
        >>> len(data.train), data.classes, data.shape
        (100, 10, (1, 16, 16))
    """
    if name not in _READERS:
        raise UnknownNameError("data set", name, _READERS)
    if unreadable not in ("refuse", "skip"):
        raise DataError(f"unreadable: {unreadable!r} is not known; use refuse or skip")
    try:
        read = imagefolder(data_dir, size, workers, unreadable) if name == "imagefolder" else None
        train, test, classes, shape, names = read or _READERS[name](data_dir, size, workers)
    except ModuleNotFoundError as error:
        if isinstance(error, FlowpruneError):
            raise
        raise MissingLibraryError(f"data set {name} needs {error.name}: pip install 'flowprune[run]'") from error
    choice = _USUAL.get(name, name) if normalize is None else normalize
    normalize_images = normalization(choice, shape[0])
    if subset is not None:
        if not 1 <= subset <= len(train):
            raise DataError(
                f"subset: {subset} of the {len(train)} training images of {name}; ask for 1 to {len(train)}"
            )
        train = drawn(train, subset, seed)
    kept = kept_if_small(train, shape), kept_if_small(test, shape)
    return Data(name, *kept, classes, shape, normalize_images, names)


def data_from(
    train: Pairs,
    test: Pairs,
    *,
    classes: int | None = None,
    names: Sequence[str] = (),
    normalize: str | Sequence[Sequence[float]] = "imagenet",
    size: int | None = None,
    workers: int = 0,
    name: str = "own",
) -> Data:
    """Data sets of your own: whatever gives (picture, label) for a number, such as torch's, torchvision's or Hugging Face's.

    Args:
        train, test: give pictures without augmentation and normalization: Pillow's, arrays [H, W] or [H, W, C], tensors [C, H, W],
            bytes or 0 to 1; with a label, as a pair or as a mapping ("image", "label").
        classes: how many; the names', or those of the training labels, if None.
        names: of the classes.
        normalize: as for ``load_data``.
        size: height and width pictures are scaled and cut to; their own, which must then be equal, if None.
        workers: processes that read.
        name: for messages and notes.

    Raises:
        DataError: a picture or label is something else.

    Example:
        >>> import torch, flowprune as fp
        >>> pairs = [(torch.rand(3, 8, 8), number % 2) for number in range(6)]
        >>> data = fp.data_from(pairs, pairs[:2], names=("cat", "dog"))
        >>> data.classes, data.shape, len(data.test)
        (2, (3, 8, 8), 2)
    """
    first, second, found, shape, known = halves_of(train, test, classes, names, size, workers)
    kept = kept_if_small(first, shape), kept_if_small(second, shape)
    return Data(name, *kept, found, shape, normalization(normalize, shape[0]), known)
