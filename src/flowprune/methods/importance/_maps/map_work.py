"""Split the feature maps of a network into passes over the data that each fit a memory limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowprune.errors import DataError
from flowprune.methods.importance._maps.map_scores import channel_maps

if TYPE_CHECKING:
    from flowprune.engine.coupling import FeatureMap

GIBIBYTE = 2**30


@dataclass(frozen=True)
class MapWork:
    """Some channels of one feature map.

    Attributes:
        layer: index of the map among all that are scored.
        map: where it is.
        start, stop: the channels of the group, a half-open range.
    """

    layer: int
    map: FeatureMap
    start: int
    stop: int

    def maps(self, observed: torch.Tensor) -> torch.Tensor:
        """``[images, channels, height, width]`` of these channels in the observed tensor."""
        indices = self.map.indices[self.start : self.stop]
        moved = observed.movedim(self.map.dimension, 1)
        first = int(indices[0, 0])
        if moved.ndim == 4 and np.array_equal(indices, np.arange(first, first + len(indices))[:, None]):
            return moved[:, first : first + len(indices)]  # a run of channels: no copy
        return channel_maps(moved, torch.as_tensor(indices, device=observed.device))


@dataclass(frozen=True)
class MapSize:
    """What decides how much one channel of a map takes.

    Attributes:
        positions: how many are looked at.
        dtype: what it is kept and its spectrum computed in.
    """

    positions: int
    dtype: torch.dtype


def positions_of(map: FeatureMap, shape: Sequence[int]) -> int:
    """Positions of one channel of a map whose tensor has ``shape``."""
    positions = int(map.indices.shape[1])
    for dimension, size in enumerate(shape):
        if dimension not in (0, map.dimension):
            positions *= size
    return positions


def state_bytes(size: MapSize, images: int | None) -> int:
    """What a channel's running state takes at most: its Gram matrix, or its maps if they are no more than positions."""
    rows = size.positions if images is None else min(images, size.positions)
    return rows * size.positions * size.dtype.itemsize


def whole(maps: Sequence[FeatureMap]) -> list[MapWork]:
    """All maps with all their channels: one pass."""
    return [MapWork(layer, map, 0, len(map.indices)) for layer, map in enumerate(maps)]


def passes(maps: Sequence[FeatureMap], sizes: Sequence[MapSize], images: int, limit: int) -> list[list[MapWork]]:
    """Fill passes with channels, map by map, so that the running states of each take at most ``limit`` bytes.

    Raises:
        DataError: a single channel takes more.
    """
    filled: list[list[MapWork]] = [[]]
    room = limit
    for layer, (map, size) in enumerate(zip(maps, sizes, strict=True)):
        each = state_bytes(size, images)
        if each > limit:
            raise DataError(
                f"one channel of the feature map of {map.unit!r} ({size.positions} positions, {images} images) needs "
                f"{each / GIBIBYTE:.2f} GiB, and {max(limit, 0) / GIBIBYTE:.2f} GiB are left of the memory limit; "
                "raise memory=, pass fewer images, or use reading='mean'"
            )
        start, channels = 0, len(map.indices)
        while start < channels:
            if room < each:
                filled.append([])
                room = limit
            stop = min(channels, start + room // each)
            filled[-1].append(MapWork(layer, map, start, stop))
            room -= (stop - start) * each
            start = stop
    return [work for work in filled if work]
