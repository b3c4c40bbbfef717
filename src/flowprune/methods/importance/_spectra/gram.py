"""Gram matrices, as far as their lower triangle: all that an eigenvalue solver reads."""

from __future__ import annotations

import torch
from torch.nn import functional

_BLOCK = 160
"""Rows that are multiplied at once: large enough for the product to run at full speed, small enough to leave most of the upper
triangle out."""


def add_lower_gram(gram: torch.Tensor, rows: torch.Tensor) -> None:
    """Add ``rows @ rows^T`` to ``gram``, as far as its lower triangle needs it; what is above is left undefined.

    Args:
        gram: ``[matrices, n, n]``, of the type of ``rows``.
        rows: ``[matrices, n, m]``.
    """
    size = rows.shape[1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        gram[:, start:stop, :stop].baddbmm_(rows[:, start:stop], rows[:, :stop].mT)


def lower_gram(rows: torch.Tensor) -> torch.Tensor:
    """``rows @ rows^T`` of one matrix ``[n, m]`` on the CPU, as far as its lower triangle needs it: ``[n, n]``.

    float32 is multiplied as a convolution of 1 x 1 with ``rows`` for image and for filters: the same product, but computed by
    oneDNN. torch's matrix product is MKL's, which is slower on processors that are not Intel's.
    """
    size = len(rows)
    gram = torch.empty(size, size, dtype=rows.dtype)
    if rows.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        add_lower_gram(gram[None].zero_(), rows[None])
        return gram
    image = rows.contiguous()[None, :, None].permute(0, 3, 1, 2)  # [1, m, n, 1], its channels last in memory
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        filters = rows[start:stop, :, None, None]
        # a filter of one pixel has nothing to dilate, but a dilated convolution is oneDNN's even on one thread
        product = functional.conv2d(image[:, :, start:], filters, dilation=2)
        gram[start:, start:stop] = product[0, :, :, 0].T
    return gram
