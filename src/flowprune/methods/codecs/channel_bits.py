"""Filters on grids: whole numbers of as many bits as each filter has, and a scale a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.errors import ArtifactError, FlowpruneError
from flowprune.methods.codecs._canonical.fixed_width import bits_of, numbers_of
from flowprune.methods.codecs._canonical.matrix import as_array, as_matrix, description, size_of
from flowprune.methods.codecs._canonical.seal import opened, sealed
from flowprune.methods.codecs.registry import REGISTRY

_Grids = tuple[list[int], NDArray[Any], list[NDArray[np.int64]]]
_NEAR = 4
"""Steps of the last bit within which a scale is looked for around the largest weight divided by its level."""


@REGISTRY.register("channel_bits")
class ChannelBits:
    """Rows of multiples ``s_f q`` of a scale of their own, the q as whole numbers of 2 to 8 bits one behind the other.

    What ``quantizer="mixed_precision"`` makes of weights. ``sum_f p_f n`` bits for rows of n entries with p_f bits each, and a
    scale in the array's own number type a row; rows of 0 bits are zero and take their scale alone. Bits are packed without gaps
    over all rows; the last byte is filled up.

    Args:
        bits: of every row; 8 for all if None.

    Example:
        >>> codec = ChannelBits(bits=[2, 0])
        >>> codec.bits(codec.encode(np.array([[0.5, -1.0, 0.0], [0, 0, 0]], np.float32)))  # 3 x 2 bits and two scales
        70
    """

    def __init__(self, *, bits: Sequence[int] | None = None) -> None:
        self._bits = None if bits is None else [int(one) for one in bits]
        if any(not 0 <= one <= 8 or one == 1 for one in self._bits or ()):
            raise FlowpruneError(f"bits={self._bits}: give 0, or 2 to 8 for every row")
        self._fitting: tuple[tuple[Any, ...], _Grids] | None = None

    def fits(self, array: NDArray[Any]) -> bool:
        """Whether every row lies on a grid of its number of bits, so that ``encode`` takes it."""
        found = self._grids(array)
        self._fitting = None if found is None else (_numbers(array), found)
        return found is not None

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array of any shape, row by row of its first dimension.

        Raises:
            FlowpruneError: it holds no floating-point numbers, or a row is on no such grid.
        """
        known, self._fitting = self._fitting, None
        # ``fits`` was asked of these numbers just now, as a rule: the search is most of the work.
        found = known[1] if known is not None and known[0] == _numbers(array) else self._grids(array)
        if found is None:
            raise FlowpruneError("channel_bits stores rows of multiples of a scale; quantize by mixed_precision first")
        widths, scales, levels = found
        packed = [bits_of(row + (1 << (width - 1)), width) for row, width in zip(levels, widths, strict=True) if width]
        stream = np.concatenate([np.zeros(0, np.uint8), *packed])
        header = {**description(array), "bits": widths}
        return sealed("channel_bits", header, {"levels": np.packbits(stream), "scales": scales})

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit.

        Raises:
            ArtifactError: the parts are damaged, or another codec's.
        """
        header, arrays = opened(parts, "channel_bits")
        rows, columns = size_of(tuple(header["shape"]))
        widths = [int(width) for width in header["bits"]]
        count = sum(widths) * columns
        kind = np.dtype(header["dtype"]).newbyteorder("=")
        whole = set(arrays) == {"levels", "scales"} and len(widths) == rows == len(arrays["scales"])
        if not whole or len(arrays["levels"]) != -(-count // 8) or arrays["scales"].dtype != kind:
            raise ArtifactError(f"damaged parts: there are not {count} bits of {rows} rows, and a scale for each")
        stream, begin = np.unpackbits(arrays["levels"], count=count), 0
        matrix = np.zeros((rows, columns), kind)
        for row, width in enumerate(widths):
            end = begin + width * columns
            if width:
                numbers = numbers_of(stream[begin:end], columns, width) - (1 << (width - 1))
                matrix[row] = numbers.astype(kind) * arrays["scales"][row]
            begin = end
        return as_array(matrix, header)

    def bits(self, parts: Parts, table: bool = True) -> int:
        """What levels and scales take, in bits, without what fills up the last byte. There is no table beside them."""
        return self.level_bits(parts) + 8 * parts.arrays["scales"].nbytes

    def level_bits(self, parts: Parts) -> int:
        """What the levels alone take, in bits: the size that a search of bits counts."""
        return sum(int(width) for width in parts.header["bits"]) * size_of(tuple(parts.header["shape"]))[1]

    def levels_of(self, array: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[Any]] | None:
        """The whole numbers of an array, in its shape, and the scale of every row; None where it does not fit."""
        found = self._grids(array)
        if found is None:
            return None
        return np.stack(found[2]).astype(np.int8).reshape(array.shape), found[1]

    def _grids(self, array: NDArray[Any]) -> _Grids | None:
        """Widths, scales and levels of all rows; None where one is on no grid of its width, or holds no floating-point numbers."""
        if array.dtype.kind != "f":
            return None
        matrix = as_matrix(array)
        widths = [8] * len(matrix) if self._bits is None else self._bits
        if len(widths) != len(matrix):
            return None
        scales, levels = np.ones(len(matrix), matrix.dtype), []
        for number, (row, width) in enumerate(zip(matrix, widths, strict=True)):
            found = grid_of(row, width)
            if found is None:
                return None
            scales[number], level = found
            levels.append(level)
        return widths, scales, levels


def _numbers(array: NDArray[Any]) -> tuple[Any, ...]:
    """What two arrays of the same numbers in the same places have in common."""
    return array.dtype.str, array.shape, array.tobytes()


def grid_of(row: NDArray[Any], bits: int) -> tuple[Any, NDArray[np.int64]] | None:
    """Scale s and levels q with ``s q`` the row's numbers, to the bit, of which the largest has the first or last level.

    None where there is none: the row was not put on a grid of so many bits, or has moved since.
    """
    if not np.isfinite(row).all():
        return None
    plain = row + 0.0  # a minus zero has no level of its own
    if not plain.any():
        same = not np.signbit(row).any()
        return (row.dtype.type(1), np.zeros(len(row), np.int64)) if same else None
    if bits < 2:
        return None
    extreme = plain[np.abs(plain).argmax()]
    last = 1 << (bits - 1)
    for level in (-last, 1 - last) if extreme < 0 else (last - 1,):  # rounding may take the first level or the second
        near = row.dtype.type(extreme / row.dtype.type(level))
        for scale in _around(near):
            levels = np.rint(plain / scale).astype(np.int64)
            if levels.min() < -last or levels.max() >= last:
                continue
            back = levels.astype(row.dtype) * scale
            if back.tobytes() == row.tobytes():
                return scale, levels
    return None


def _around(number: Any) -> list[Any]:
    """A number and its next neighbours, the nearest first."""
    below = above = number
    found = [number]
    for _ in range(_NEAR):
        below, above = np.nextafter(below, number.dtype.type(0)), np.nextafter(above, number.dtype.type(np.inf))
        found += [below, above]
    return found
