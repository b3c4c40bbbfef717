"""Symbols coded by a canonical Huffman code, as the arrays that HAM and sHAM store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.errors import ArtifactError, FlowpruneError
from flowprune.methods.codecs._canonical.canonical_code import CanonicalCode
from flowprune.methods.codecs._canonical.code_lengths import code_lengths
from flowprune.methods.codecs._canonical.code_stream import read, write
from flowprune.methods.codecs._canonical.matrix import distinct

STORED = ("stream", "symbols", "first_symbol", "first_code", "table")


class HuffmanCoded:
    """What codecs share that store Huffman-coded symbols: their options, and what their parts take.

    Raises:
        FlowpruneError: ``word`` is none of 8, 16, 32 and 64, or ``table_bits`` is not within 0 to 16.
    """

    def __init__(self, *, word: int = 32, table_bits: int = 8) -> None:
        if word not in (8, 16, 32, 64):
            raise FlowpruneError(f"word={word!r}: a machine word has 8, 16, 32 or 64 bits")
        if not 0 <= table_bits <= 16:
            raise FlowpruneError(f"table_bits={table_bits!r}: the decoding table is indexed by 0 (no table) to 16 bits")
        self.word = word
        self.table_bits = table_bits

    def bits(self, parts: Parts, table: bool = True) -> int:
        """What the arrays of the parts take, in bits; without the decoding table if not ``table``."""
        return sum(8 * array.nbytes for name, array in parts.arrays.items() if table or name != "table")


def coded(values: NDArray[Any], word: int, table_bits: int) -> tuple[int, dict[str, NDArray[Any]]]:
    """Bits in use of the stream, and what is stored for ``values`` [n]."""
    symbols, codes, counts = distinct(values)
    code = CanonicalCode.of(code_lengths(counts.tolist()))
    stream, used = write(codes, code, word)
    return used, {
        "stream": stream,
        "symbols": symbols,
        "first_symbol": code.first_symbol,
        "first_code": code.first_code,
        "table": code.table(min(table_bits, code.longest)),
    }


def decoded(arrays: dict[str, NDArray[Any]], count: int, used: int) -> NDArray[Any]:
    """The ``count`` values again.

    Raises:
        ArtifactError: an array is missing, or they do not belong together.
    """
    missing = [name for name in STORED if name not in arrays]
    if missing:
        raise ArtifactError(f"damaged parts: there is no {missing[0]}")
    symbols, table = arrays["symbols"], arrays["table"]
    code = CanonicalCode.read(arrays["first_symbol"], arrays["first_code"], len(symbols))
    if not np.array_equal(table, code.table(max(len(table).bit_length() - 1, 0))):
        raise ArtifactError("damaged decoding table: it is not that of the code")
    return symbols[read(arrays["stream"], code, table, count, used)]
