"""Index map: every entry the number of its value, in as few bits as that takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.errors import ArtifactError
from flowprune.methods.codecs._canonical.canonical_code import unsigned
from flowprune.methods.codecs._canonical.fixed_width import bits_of, numbers_of
from flowprune.methods.codecs._canonical.matrix import (
    as_array,
    as_matrix,
    checked_symbols,
    description,
    distinct,
    size_of,
)
from flowprune.methods.codecs._canonical.seal import opened, sealed
from flowprune.methods.codecs.registry import REGISTRY


@REGISTRY.register("packed_bits")
class PackedBits:
    """Numbers of a list of values, in ``ceil(log2 k)`` bits each for k values.

    Han, Mao & Dally, Deep Compression, ICLR 2016, arXiv 1510.00149, section 3, without its Huffman code: the index map that HAM
    and sHAM are compared with. ``n m ceil(log2 k) + k b`` bits for n x m entries and values of b bits; the list of values is
    needed to decode, so it counts with and without ``table``.

    Args:
        whole_bytes: numbers take 8, 16 or 32 bits, whichever is the first above log2 k: the authors' figure (fixtures).

    Example:
        >>> codec = PackedBits()
        >>> codec.bits(codec.encode(np.array([0.5, -0.5, 0.5], np.float32)))  # three bits and two values
        67
    """

    def __init__(self, *, whole_bytes: bool = False) -> None:
        self.whole_bytes = whole_bytes

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array of any shape.

        Raises:
            FlowpruneError: it holds no whole or floating-point numbers of at most 8 bytes.
        """
        symbols, codes, _ = distinct(as_matrix(array).ravel())
        width = 8 * unsigned(len(symbols)).itemsize if self.whole_bytes else max(len(symbols) - 1, 0).bit_length()
        header = {**description(array), "width": width}
        return sealed("packed_bits", header, {"indices": np.packbits(bits_of(codes, width)), "symbols": symbols})

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit.

        Raises:
            ArtifactError: the parts are damaged, or another codec's.
        """
        header, arrays = opened(parts, "packed_bits")
        rows, columns = size_of(tuple(header["shape"]))
        count, width = rows * columns, header["width"]
        if set(arrays) != {"indices", "symbols"} or len(arrays["indices"]) != -(-count * width // 8):
            raise ArtifactError(
                f"damaged parts: there are not {count} numbers of {width} bits, and the values they stand for"
            )
        codes = numbers_of(np.unpackbits(arrays["indices"], count=count * width), count, width)
        if count and int(codes.max(initial=0)) >= len(arrays["symbols"]):
            raise ArtifactError(f"damaged parts: a number is above {len(arrays['symbols']) - 1}, the last value's")
        return as_array(checked_symbols(arrays["symbols"], header)[codes], header)

    def bits(self, parts: Parts, table: bool = True) -> int:
        """What numbers and values take, in bits. There is no table beside them, so ``table`` changes nothing."""
        count = int(np.prod(parts.header["shape"], dtype=np.int64))
        return count * int(parts.header["width"]) + 8 * parts.arrays["symbols"].nbytes
