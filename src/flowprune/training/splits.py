"""Images of one half of a data set: as tensors in memory, or as files read by a loader. Both give uint8 batches."""

from __future__ import annotations

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
        for chosen in positions:
            here = chosen.to(device)
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
