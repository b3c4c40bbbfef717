"""Running nuclear norms of feature maps: what each reading keeps from batch to batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from flowprune.methods.importance._spectra.gram import add_lower_gram, lower_gram
from flowprune.methods.importance._spectra.spectrum import (
    NuclearNorms,
    eigenvalue_nuclear_norms,
    nuclear_norms_in_threads,
    rows_per_chunk,
)
from flowprune.methods.importance._spectra.threads import in_threads


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
    batches. Maps and Gram matrix share one buffer, so that its size is all that is ever kept.

    Args:
        dtype: what maps are kept and Gram matrices and eigenvalues computed in.
        images: how many there will be at most, where that is known; else the buffer has room for as many as positions.
        positions: look at so many positions only, the same for all channels and images, drawn once; scores are then
            multiplied by ``sqrt(all / positions)``. None for all of them, which is exact.
    """

    def __init__(self, dtype: torch.dtype, images: int | None = None, positions: int | None = None) -> None:
        self._dtype = dtype
        self._expected = images
        self._positions = positions
        self._images = 0
        self._factor = 1.0
        self._buffer: torch.Tensor | None = None  # [channels, images, positions], then [channels, positions, positions]
        self._summed = False

    def add(self, maps: torch.Tensor) -> None:
        """Take in ``[images, channels, height, width]``."""
        flat = maps.flatten(2).transpose(0, 1)  # [channels, images, positions]
        if self._positions is not None and self._positions < flat.shape[2]:
            self._factor = (flat.shape[2] / self._positions) ** 0.5
            flat = flat.index_select(2, drawn_positions(flat.shape[2], self._positions).to(flat.device))
        channels, images, positions = flat.shape
        if self._buffer is None:
            # memory that is not written to is not taken (on the CPU)
            room = min(positions, self._expected or positions)
            self._buffer = torch.empty(channels, room, positions, dtype=self._dtype, device=flat.device)
        before, self._images = self._images, self._images + images
        if self._buffer.shape[1] < min(self._images, positions):  # several rows an image, as windows of a map are
            larger = torch.empty(channels, positions, positions, dtype=self._dtype, device=flat.device)
            larger[:, :before] = self._buffer[:, :before]
            self._buffer = larger
        if self._images <= self._buffer.shape[1]:
            self._buffer[:, before : self._images] = flat
            return
        step = rows_per_chunk((before + images) * positions, self._dtype)
        if not self._summed:
            for gram in self._buffer.split(step):
                kept = gram[:, :before].clone()
                add_lower_gram(gram.zero_(), kept.mT)
            self._summed = True
        for gram, rows in zip(self._buffer.split(step), flat.split(step), strict=True):
            add_lower_gram(gram, rows.to(self._dtype).mT)

    @property
    def channels(self) -> int:
        """How many there are."""
        assert self._buffer is not None
        return len(self._buffer)

    @property
    def is_large(self) -> bool:
        """Whether a Gram matrix is worth a task of its own, and a reduction apart from its eigenvalues; on the CPU only."""
        assert self._buffer is not None
        return self._buffer.device.type == "cpu" and self._side() >= _LARGE

    def scores(self) -> torch.Tensor:
        """float64 ``[channels]``."""
        return stacked_scores([self])[0]

    def _side(self) -> int:
        assert self._buffer is not None
        return self._buffer.shape[1] if self._summed else self._images

    def all_norms(self) -> NuclearNorms:
        """Of every channel, by eigenvalues."""
        assert self._buffer is not None
        if self._buffer.device.type != "cpu":
            step = rows_per_chunk(self._side() ** 2, self._dtype)
            return joined([self._norms(start, start + step) for start in range(0, self.channels, step)])
        step = -(-self.channels // torch.get_num_threads())
        return joined(in_threads(lambda start: self._norms(start, start + step), range(0, self.channels, step)))

    def checked(self, found: NuclearNorms) -> torch.Tensor:
        """The scores: norms, doubtful ones taken once more in float64."""
        norms, again = found.norms, (found.doubtful | ~torch.isfinite(found.norms)).nonzero()[:, 0]
        if len(again):
            exact = in_threads(lambda channel: self._exact_norm(channel), again.tolist())
            norms[again] = torch.cat(exact)
        return norms * self._factor

    def gram(self, channel: int) -> torch.Tensor:
        """The lower triangle of one channel's Gram matrix, a copy."""
        assert self._buffer is not None
        return self._buffer[channel].clone() if self._summed else lower_gram(self._buffer[channel, : self._images])

    def _norms(self, start: int, stop: int) -> NuclearNorms:
        assert self._buffer is not None
        if self._summed:
            return eigenvalue_nuclear_norms(self._buffer[start:stop])
        rows = self._buffer[start:stop, : self._images]
        gram = torch.zeros(len(rows), self._images, self._images, dtype=self._dtype, device=rows.device)
        add_lower_gram(gram, rows)
        return eigenvalue_nuclear_norms(gram)

    def _exact_norm(self, channel: int) -> torch.Tensor:
        """One channel's norm ``[1]`` in float64; exact where its maps are still there, else as exact as its Gram matrix."""
        assert self._buffer is not None
        if self._summed:
            return eigenvalue_nuclear_norms(self._buffer[channel : channel + 1].to(torch.float64)).norms
        rows = self._buffer[channel, : self._images].to(torch.float64)
        return eigenvalue_nuclear_norms((rows @ rows.mT)[None]).norms


def joined(parts: list[NuclearNorms]) -> NuclearNorms:
    """One after the other."""
    return NuclearNorms(torch.cat([part.norms for part in parts]), torch.cat([part.doubtful for part in parts]))


_LARGE = 128
"""From this side on."""


def stacked_scores(spectra: Sequence[StackedSpectra]) -> list[torch.Tensor]:
    """The scores of each, float64 ``[channels]``. Large Gram matrices of all of them are done together: no thread waits for the
    last channel of a layer."""
    large = [(one, channel) for one in spectra if one.is_large for channel in range(one.channels)]
    together = nuclear_norms_in_threads(lambda number: large[number][0].gram(large[number][1]), len(large))
    scores, start = [], 0
    for one in spectra:
        if one.is_large:
            own = slice(start, start + one.channels)
            scores.append(one.checked(NuclearNorms(together.norms[own], together.doubtful[own])))
            start = own.stop
        else:
            scores.append(one.checked(one.all_norms()))
    return scores


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
    return eigenvalue_nuclear_norms(gram.flatten(0, 1)).norms.view(images, channels).sum(dim=0)
