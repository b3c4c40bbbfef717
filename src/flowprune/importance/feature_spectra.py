"""Running nuclear norms of feature maps: what each reading keeps from batch to batch."""

from __future__ import annotations

from typing import Protocol

import torch

from flowprune.importance.spectrum import eigenvalue_nuclear_norms, nuclear_norms, rows_per_chunk


class FeatureSpectra(Protocol):
    """Takes the maps of some channels batch by batch, then gives one number per channel."""

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``."""
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
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._kept: list[torch.Tensor] = []
        self._images = 0
        self._gram: torch.Tensor | None = None

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``."""
        flat = maps.flatten(2).transpose(0, 1)  # [channels, images, positions]
        self._images += flat.shape[1]
        if self._gram is None and self._images <= flat.shape[2]:
            self._kept.append(flat.contiguous())
            return
        if self._gram is None:
            channels, _, positions = flat.shape
            self._gram = torch.zeros(channels, positions, positions, dtype=self._dtype, device=flat.device)
            for kept in self._kept:
                self._accumulate(kept)
            self._kept = []
        self._accumulate(flat)

    def _accumulate(self, flat: torch.Tensor) -> None:
        assert self._gram is not None
        step = rows_per_chunk(flat.shape[1] * flat.shape[2], self._dtype)
        for gram, rows in zip(self._gram.split(step), flat.split(step), strict=True):
            exact = rows.to(self._dtype)
            gram.baddbmm_(exact.mT, exact)

    def scores(self) -> torch.Tensor:
        """float64 ``[channels]``."""
        if self._gram is None:
            return nuclear_norms(torch.cat(self._kept, dim=1), self._dtype)
        step = rows_per_chunk(self._gram.shape[1] ** 2, self._dtype)
        return torch.cat([eigenvalue_nuclear_norms(gram) for gram in self._gram.split(step)])


class MeanSpectra:
    """The mean over images, per channel, of the nuclear norm of its height x width map. Keeps one number a channel."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._total: torch.Tensor | None = None
        self._images = 0

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``."""
        images, channels = maps.shape[:2]
        total = nuclear_norms(maps.flatten(0, 1), self._dtype).view(images, channels).sum(dim=0)
        self._total = total if self._total is None else self._total + total
        self._images += images

    def scores(self) -> torch.Tensor:
        """float64 ``[channels]``."""
        assert self._total is not None
        return self._total / self._images
