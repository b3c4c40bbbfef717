"""Whole numbers as bits of one width, the highest first, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 18
"""Numbers whose bits are taken at a time: between them lie 8 bytes a bit."""


def bits_of(numbers: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """``[n * width]``, each 0 or 1, of ``n`` numbers from 0 to ``2^width - 1``."""
    place = np.arange(width)[::-1]
    parts = [
        ((numbers[begin : begin + _AT_ONCE, None] >> place) & 1).astype(np.uint8).ravel()
        for begin in range(0, len(numbers), _AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.uint8), *parts])


def numbers_of(bits: NDArray[Any], count: int, width: int) -> NDArray[np.int64]:
    """The ``count`` numbers again."""
    numbers = np.zeros(count, np.int64)
    for column, shift in zip(bits.reshape(count, width).T, range(width)[::-1], strict=True):
        numbers |= column.astype(np.int64) << shift
    return numbers
