"""Running nuclear norms of feature maps: what each reading keeps from batch to batch."""

from __future__ import annotations

from typing import Protocol

import torch

from flowprune.importance.spectrum import add_lower_gram, eigenvalue_nuclear_norms, rows_per_chunk
from flowprune.importance.threads import in_threads


class FeatureSpectra(Protocol):
    """Takes the maps of some channels batch by batch, then gives one number per channel."""

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``; what is kept of it is a copy."""
        ...

    def scores(self) -> torch.Tensor:
        """float64 ``[channels]``, on the device of the maps."""
        ...


class StackedSpectra:
    """The nuclear norm, per channel, of all its maps stacked as one (height*width) x images matrix A.

    Nuclear norms of batches do not add, Gram matrices do: A A^T over all images is the sum of the batches' A A^T. While
    there are no more images than positions the maps themselves are kept, which is smaller, and the Gram matrix is taken
    on the image side at the end; with one image more than positions it is taken on the position side and only that is
    kept. Either way the side is the shorter one, so the result does not depend on how the images were split into
    batches.

    Args:
        dtype: what Gram matrices and eigenvalues are computed in.
        positions: look at so many positions only, the same for all channels and images, drawn once; scores are then
            multiplied by ``sqrt(all / positions)``. None for all of them, which is exact.
    """

    def __init__(self, dtype: torch.dtype, positions: int | None = None) -> None:
        self._dtype = dtype
        self._positions = positions
        self._kept: list[torch.Tensor] = []
        self._images = 0
        self._factor = 1.0
        self._gram: torch.Tensor | None = None

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``."""
        flat = maps.flatten(2).transpose(0, 1)  # [channels, images, positions]
        if self._positions is not None and self._positions < flat.shape[2]:
            self._factor = (flat.shape[2] / self._positions) ** 0.5
            flat = flat.index_select(2, drawn_positions(flat.shape[2], self._positions).to(flat.device))
        self._images += flat.shape[1]
        if self._gram is None and self._images <= flat.shape[2]:
            self._kept.append(flat.clone(memory_format=torch.contiguous_format))
            return
        if self._gram is None:
            channels, _, positions = flat.shape
            self._gram = torch.zeros(channels, positions, positions, dtype=self._dtype, device=flat.device)
            while self._kept:
                self._accumulate(self._kept.pop(0))
        self._accumulate(flat)

    def _accumulate(self, flat: torch.Tensor) -> None:
        assert self._gram is not None
        step = rows_per_chunk(flat.shape[1] * flat.shape[2], self._dtype)
        for gram, rows in zip(self._gram.split(step), flat.split(step), strict=True):
            add_lower_gram(gram, rows.to(self._dtype).mT)

    def scores(self) -> torch.Tensor:
        """float64 ``[channels]``."""
        state = self._kept[0] if self._gram is None else self._gram
        channels, side = len(state), self._images if self._gram is None else state.shape[1]
        if state.device.type != "cpu":
            step = rows_per_chunk(side * side, self._dtype)
            norms = [self._norms(start, start + step) for start in range(0, channels, step)]
        else:
            step = 1 if side >= _LARGE else -(-channels // torch.get_num_threads())
            norms = in_threads(lambda start: self._norms(start, start + step), range(0, channels, step))
        return torch.cat(norms) * self._factor

    def _norms(self, start: int, stop: int) -> torch.Tensor:
        if self._gram is not None:
            return eigenvalue_nuclear_norms(self._gram[start:stop])
        rows = torch.cat([kept[start:stop] for kept in self._kept], dim=1).to(self._dtype)
        gram = torch.zeros(len(rows), rows.shape[1], rows.shape[1], dtype=self._dtype, device=rows.device)
        add_lower_gram(gram, rows)
        return eigenvalue_nuclear_norms(gram)


_LARGE = 128
"""From this side on a matrix is worth a task of its own."""


def drawn_positions(all: int, wanted: int) -> torch.Tensor:
    """``wanted`` of the numbers 0 .. ``all`` - 1, in order; the same ones every time."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.randperm(all, generator=generator)[:wanted].sort().values


class MeanSpectra:
    """The mean over images, per channel, of the nuclear norm of its height x width map. Keeps one number a channel.

    Always in float64: maps of single images are often rank-deficient, and float32's squares drown what is small there.
    """

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None
        self._images = 0

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``."""
        images, channels, height, width = maps.shape
        side = min(height, width)
        step = rows_per_chunk(channels * (height * width + side * side), torch.float64)
        if maps.device.type == "cpu":
            step = max(1, min(step, -(-images // torch.get_num_threads())))
            norms = in_threads(_map_norms, maps.split(step))
        else:
            norms = [_map_norms(chunk) for chunk in maps.split(step)]
        total = torch.stack(norms).sum(dim=0)
        self._total = total if self._total is None else self._total + total
        self._images += images

    def scores(self) -> torch.Tensor:
        """float64 ``[channels]``."""
        assert self._total is not None
        return self._total / self._images


def _map_norms(maps: torch.Tensor) -> torch.Tensor:
    """Sum over the images of the nuclear norm of each map: ``[channels]``."""
    images, channels, height, width = maps.shape
    exact = maps.to(torch.float64)
    gram = exact @ exact.mT if height <= width else exact.mT @ exact
    return eigenvalue_nuclear_norms(gram.flatten(0, 1)).view(images, channels).sum(dim=0)
