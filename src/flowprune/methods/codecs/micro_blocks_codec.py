"""Micro-structured blocks: one value and the signs for a block of one absolute value, nothing for a block of zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.errors import ArtifactError, FlowpruneError
from flowprune.methods.codecs._canonical.matrix import as_array, as_matrix, description, size_of
from flowprune.methods.codecs._canonical.seal import opened, sealed
from flowprune.methods.codecs.registry import REGISTRY

ZERO, UNIFIED, FREE = 0, 1, 2


@REGISTRY.register("micro_blocks")
class MicroBlocks:
    """Blocks of p x q entries of a matrix: zero, of one absolute value, or free, whichever they are.

    For "Efficient Micro-Structured Weight Unification and Pruning", arXiv 2106.08301. Two bits say which a block is; one of n
    entries and numbers of b bits then takes::

        zero: 0      of one absolute value: b + n      free: n b

    Args:
        p, q: the sides of a block.

    Raises:
        FlowpruneError: a side is no number of at least 1.

    Example:
        >>> codec = MicroBlocks(p=1, q=4)
        >>> codec.bits(codec.encode(np.array([[0, 0, 0, 0, 0.5, -0.5, 0.5, 0.5]], np.float32)))
        40
    """

    def __init__(self, *, p: int = 4, q: int = 4) -> None:
        for name, value in (("p", p), ("q", q)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise FlowpruneError(f"{name}={value!r} is no side of a block: use a whole number of at least 1")
        self.p, self.q = p, q

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array of floating-point numbers, of any shape.

        Raises:
            FlowpruneError: it holds no such numbers.
        """
        if array.dtype.kind != "f":
            raise FlowpruneError(f"an array of {array.dtype} has no blocks of one absolute value; use another codec")
        matrix = as_matrix(array)
        kinds, values, signs, free = [], [], [], []
        for rows, columns in _places(matrix.shape, self.p, self.q):
            block = matrix[rows, columns].ravel()
            patterns = block.view(f"u{block.dtype.itemsize}")
            sizes = np.abs(block).view(patterns.dtype)
            if not patterns.any():
                kinds.append(ZERO)
            elif (sizes == sizes[0]).all():
                kinds.append(UNIFIED)
                values.append(np.abs(block[:1]))
                signs.append(np.signbit(block))
            else:
                kinds.append(FREE)
                free.append(block)
        pairs = np.array(kinds, np.uint8)
        none = np.empty(0, matrix.dtype)
        arrays = {
            "kinds": np.packbits(np.stack([pairs >> 1, pairs & 1], 1).ravel()),
            "values": np.concatenate([none, *values]),
            "signs": np.packbits(np.concatenate([np.empty(0, bool), *signs])),
            "free": np.concatenate([none, *free]),
        }
        counts = {"blocks": len(kinds), "signs": sum(len(one) for one in signs)}
        return sealed("micro_blocks", {**description(array), "p": self.p, "q": self.q, **counts}, arrays)

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit; the sides are in the parts.

        Raises:
            ArtifactError: the parts are damaged, or another codec's.
        """
        header, arrays = opened(parts, "micro_blocks")
        kind = np.dtype(header["dtype"]).newbyteorder("=")
        matrix = np.zeros(size_of(tuple(header["shape"])), kind)
        pairs = np.unpackbits(arrays["kinds"], count=2 * header["blocks"]).reshape(-1, 2)
        signs = np.unpackbits(arrays["signs"], count=header["signs"]).astype(bool)
        places = list(_places(matrix.shape, header["p"], header["q"]))
        if len(places) != header["blocks"]:
            raise ArtifactError(f"damaged parts: {header['blocks']} blocks of an array that has {len(places)}")
        value = sign = free = 0
        for (rows, columns), which in zip(places, pairs @ np.array([2, 1]), strict=True):
            block = matrix[rows, columns]
            if which == UNIFIED:
                negative = signs[sign : sign + block.size].reshape(block.shape)
                block[...] = np.where(negative, -arrays["values"][value], arrays["values"][value])
                value, sign = value + 1, sign + block.size
            elif which == FREE:
                block[...] = arrays["free"][free : free + block.size].reshape(block.shape)
                free += block.size
        return as_array(matrix, header)

    def bits(self, parts: Parts, table: bool = True) -> int:
        """What kinds, values, signs and free numbers take, in bits. There is no table, so ``table`` changes nothing."""
        numbers = 8 * (parts.arrays["values"].nbytes + parts.arrays["free"].nbytes)
        return 2 * int(parts.header["blocks"]) + int(parts.header["signs"]) + numbers


def _places(shape: tuple[int, ...], p: int, q: int) -> list[tuple[slice, slice]]:
    """The blocks of a matrix, row by row; those at the edges are what is left there."""
    rows, columns = shape
    return [(slice(r, r + p), slice(c, c + q)) for r in range(0, rows, p) for c in range(0, columns, q)]
