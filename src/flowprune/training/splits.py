"""Images of one half of a data set: tensors in memory, files read by a loader, or files kept once read. All give uint8 batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowprune.errors import DataError


class Split(Protocol):
    """The training or the test images."""

    def __len__(self) -> int: ...

    def batches(self, positions: Sequence[Tensor], device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
        """For each tensor of positions: uint8 images [N, C, H, W] and int64 targets [N], on the device."""
        ...


@dataclass
class ImagesInMemory:
    """A small data set, whole: uint8 images [N, C, H, W] and int64 targets [N]. It moves to the device once."""

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, positions: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Split``."""
        if self.images.device != device:
            self.images, self.targets = self.images.to(device), self.targets.to(device)
        # All at once and before the first step: a copy to a device that is busy waits for it.
        for here in [chosen.to(device) for chosen in positions]:
            yield self.images[here], self.targets[here]


@dataclass
class ImagesInFolders:
    """A large data set, one file an image, decoded by ``workers`` processes (0: in this one)."""

    dataset: Dataset[tuple[Tensor, int]]
    length: int
    workers: int = 0

    def __len__(self) -> int:
        return self.length

    def batches(self, positions: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Split``."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=[chosen.tolist() for chosen in positions],
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
        )
        try:
            for images, targets in loader:
                yield images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        except DataError as error:
            # A worker process sends its whole traceback as the message; the last line is ours.
            raise DataError(str(error).strip().splitlines()[-1].partition("DataError: ")[2] or str(error)) from error


class ImagesDecodedOnce:
    """A data set of files that fits into memory: each is decoded when it is first asked for, and its pixels are kept.

    Args:
        files: the images.
        shape: (channels, height, width) of each.
    """

    def __init__(self, files: Split, shape: tuple[int, int, int]) -> None:
        self._files = files
        # The system gives memory for what is written only, so a run that looks at few images needs little.
        pixels = torch.empty((len(files), *shape), dtype=torch.uint8)
        self._kept = ImagesInMemory(pixels, torch.empty(len(files), dtype=torch.int64))
        self._decoded = torch.zeros(len(files), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, positions: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Split``."""
        if self._decoded.all():
            yield from self._kept.batches(positions, device)
            return
        known, missing = self._decoded.clone(), []
        for chosen in positions:
            missing.append(chosen[~known[chosen]].unique())
            known[chosen] = True
        fresh = iter(self._files.batches([new for new in missing if len(new)], torch.device("cpu")))
        for chosen, new in zip(positions, missing, strict=True):
            if len(new):
                self._kept.images[new], self._kept.targets[new] = next(fresh)
                self._decoded[new] = True
            yield self._kept.images[chosen].to(device), self._kept.targets[chosen].to(device)


SMALL_BYTES = 2 * 2**30
"""As many pixels of a half of a data set are kept in memory: Tiny ImageNet's 1.2 GB are, ImageNet's 190 are not."""


def kept_if_small(split: Split, shape: tuple[int, int, int]) -> Split:
    """The split itself where its images are in memory or too many for it; else one that decodes every file once."""
    whole = split.whole if isinstance(split, Subset) else split
    small = len(split) * math.prod(shape) <= SMALL_BYTES
    return ImagesDecodedOnce(split, shape) if small and isinstance(whole, ImagesInFolders) else split


@dataclass
class Subset:
    """Some images of another split."""

    whole: Split
    positions: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, positions: Sequence[Tensor], device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
        """See ``Split``."""
        return self.whole.batches([self.positions[chosen] for chosen in positions], device)


def drawn(split: Split, count: int, seed: int) -> Subset:
    """So many of the images, drawn by the seed, in their own order."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
    return Subset(split, chosen.sort().values)


def split_off(split: Split, count: int, seed: int) -> tuple[Subset, Subset]:
    """So many of the images, drawn by the seed, and all the others, each in their own order."""
    chosen = drawn(split, count, seed)
    others = torch.ones(len(split), dtype=torch.bool)
    others[chosen.positions] = False
    return chosen, Subset(split, others.nonzero().flatten())
