"""What one feature map says of its channels, image by image, and the averages of it."""

from __future__ import annotations

import torch

from flowprune.engine.measuring import is_finite
from flowprune.errors import ModelError


class Averages:
    """Averages over images of what each map says, added up batch by batch in float64."""

    def __init__(self) -> None:
        self._totals: dict[int, torch.Tensor] = {}
        self._rows: dict[
            int, int
        ] = {}  # images; or tokens, where a map keeps those of all images in its first dimension

    def add(self, number: int, found: torch.Tensor) -> None:
        """Enter what a batch's images say, ``[images, channels]``, of the map of this number."""
        total = found.sum(dim=0, dtype=torch.float64)
        self._totals[number] = self._totals[number] + total if number in self._totals else total
        self._rows[number] = self._rows.get(number, 0) + len(found)

    def of(self, number: int) -> torch.Tensor | None:
        """``[channels]``; None where nothing was entered."""
        return self._totals[number] / self._rows[number] if number in self._totals else None


def check_map(tensor: torch.Tensor, unit: str) -> None:
    """Raise a ``ModelError`` that names the layer if its map holds NaN or infinity."""
    if not is_finite(tensor):
        raise ModelError(f"the feature map of {unit!r} holds NaN or infinite values; check the weights and the inputs")


def channel_maps(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``[images, channels, height, width]``: the maps of each channel.

    Everything that is neither batch nor channel is a position. A channel that takes k places has its k maps one below
    the other; a tensor without positions has 1 x 1 maps, one with a single row of them 1 x n maps.

    Args:
        tensor: ``[images, channels of the layer, ...]``.
        indices: ``[channels, k]``.
    """
    channels, places = indices.shape
    picked = tensor.index_select(1, indices.flatten())
    if picked.ndim <= 3:
        picked = picked.reshape(*picked.shape[:2], 1, -1)
    images, _, height = picked.shape[:3]
    return picked.reshape(images, channels, places * height, -1)
