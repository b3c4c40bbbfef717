"""Random crops and flips of a whole batch at once, on its device."""

from __future__ import annotations

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


def draw(settings: Augmentation, images: int, generator: torch.Generator) -> Draw:
    """Decide for ``images`` images, on the CPU, so that every kind of device sees the same training."""
    rows, columns = torch.randint(0, 2 * settings.crop + 1, (2, images), generator=generator)
    mirrored = torch.randint(0, 2, (images,), generator=generator).bool() & settings.flip
    return Draw(rows, columns, mirrored)


def augment(images: Tensor, padding: int, drawn: Draw) -> Tensor:
    """Pad with black by ``padding`` on every side, cut out the drawn window of the old size, mirror where drawn.

    Args:
        images: uint8 [N, C, H, W].
        padding: the ``crop`` of the settings.
        drawn: for these N images.

    Returns:
        [N, C, H, W], in channels-last memory format.
    """
    count, _, height, width = images.shape
    device = images.device
    pixels = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    rows = drawn.rows.to(device)[:, None] + torch.arange(height, device=device)
    across = torch.arange(width, device=device).expand(count, width)
    across = torch.where(drawn.mirrored.to(device)[:, None], width - 1 - across, across)
    columns = drawn.columns.to(device)[:, None] + across
    each = torch.arange(count, device=device)[:, None, None]
    return pixels[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
