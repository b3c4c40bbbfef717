"""Random crops and flips of a whole batch at once, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flowprune.training.settings import Augmentation


@dataclass(frozen=True)
class Draw:
    """What chance decided for each image of a batch: the crop's row and column offset, and whether it is mirrored."""

    rows: Tensor
    columns: Tensor
    mirrored: Tensor

    def share(self, rank: int, processes: int) -> Draw:
        """What falls to one process."""
        return Draw(self.rows[rank::processes], self.columns[rank::processes], self.mirrored[rank::processes])

    def to(self, device: torch.device) -> Draw:
        """The same on a device."""
        return Draw(self.rows.to(device), self.columns.to(device), self.mirrored.to(device))


def draw(settings: Augmentation, images: int, generator: torch.Generator) -> Draw:
    """Decide for ``images`` images, on the CPU, so that every kind of device sees the same training."""
    rows, columns = torch.randint(0, 2 * settings.crop + 1, (2, images), generator=generator)
    mirrored = torch.randint(0, 2, (images,), generator=generator).bool() & settings.flip
    return Draw(rows, columns, mirrored)


def draws(settings: Augmentation | None, batches: Sequence[Tensor], generator: torch.Generator) -> list[Draw]:
    """One for each batch of images, in order; none where nothing is augmented."""
    return [] if settings is None else [draw(settings, len(batch), generator) for batch in batches]


def augment(images: Tensor, padding: int, drawn: Draw) -> Tensor:
    """Pad with black by ``padding`` on every side, cut out the drawn window of the old size, mirror where drawn.

    Args:
        images: uint8 [N, C, H, W].
        padding: the ``crop`` of the settings.
        drawn: for these N images, on their device.

    Returns:
        uint8 [N, C, H, W].
    """
    count, _, height, width = images.shape
    # Every window of every image, as a view: [N, C, rows to start at, columns to start at, H, W].
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    chosen = windows[torch.arange(count, device=images.device), :, drawn.rows, drawn.columns]
    return torch.where(drawn.mirrored[:, None, None, None], chosen.flip(-1), chosen)
