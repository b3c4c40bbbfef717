"""sHAM: compressed sparse columns whose values are Huffman-coded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.errors import ArtifactError
from flowprune.methods.codecs._canonical.canonical_code import unsigned
from flowprune.methods.codecs._canonical.huffman_parts import HuffmanCoded, coded, decoded
from flowprune.methods.codecs._canonical.matrix import as_array, as_matrix, checked_symbols, description, size_of
from flowprune.methods.codecs._canonical.seal import opened, sealed
from flowprune.methods.codecs.registry import REGISTRY


@REGISTRY.register("sparse_huffman")
class SparseHuffman(HuffmanCoded):
    """Compressed sparse columns with Huffman-coded values (sHAM): for matrices that are mostly zero.

    Marinò, Ghidoli, Frasca & Malchiodi, ICPR 2020; Marinò, Petrini, Malchiodi & Frasca, arXiv 2108.12704. Of a matrix with n
    rows and m columns the values that are not zero are stored as ``huffman`` stores a matrix, and for each its row, and for
    each column how many it has::

        bits(huffman, non-zeros only) + non-zeros bits(n) + m bits(n)

    Compared with the authors' code (fixtures); the figure printed in the ICPR paper counts n row numbers only. A zero is what
    has no bit set: minus zero is stored like any value, so that the array comes back bit for bit.

    Args:
        word: bits of a machine word of the stream: 8, 16, 32 or 64.
        table_bits: as of ``Huffman``.

    Raises:
        FlowpruneError: an option is none of these.

    Example:
        >>> codec = SparseHuffman(table_bits=0)
        >>> codec.bits(codec.encode(np.zeros((100, 3), np.float32)))  # three columns, none of which holds a value
        24
    """

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array.

        Args:
            array: any shape: its matrix has the first dimension as rows and all others as columns.

        Raises:
            FlowpruneError: it holds no whole or floating-point numbers of at most 8 bytes.
        """
        columns = np.ascontiguousarray(as_matrix(array).T)
        held = columns.view(f"u{columns.dtype.itemsize}") != 0
        used, arrays = coded(columns[held], self.word, self.table_bits)
        index = unsigned(columns.shape[1])
        arrays["rows"] = np.nonzero(held)[1].astype(index)
        arrays["column_counts"] = held.sum(axis=1).astype(index)
        return sealed("sparse_huffman", {**description(array), "stream_bits": used}, arrays)

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit.

        Raises:
            ArtifactError: the parts are damaged, or another codec's.
        """
        header, arrays = opened(parts, "sparse_huffman")
        rows, columns = size_of(tuple(header["shape"]))
        if "rows" not in arrays or "column_counts" not in arrays:
            raise ArtifactError("damaged parts: there are no rows or no column_counts")
        row, counts = arrays["rows"], arrays["column_counts"].astype(np.int64)
        if len(counts) != columns or int(counts.sum()) != len(row) or (len(row) and int(row.max()) >= rows):
            raise ArtifactError(f"damaged parts: rows and column counts are not those of {rows} x {columns} numbers")
        values = checked_symbols(decoded(arrays, len(row), header["stream_bits"]), header)
        matrix = np.zeros((columns, rows), values.dtype)
        matrix[np.repeat(np.arange(columns), counts), row] = values
        return as_array(matrix.T, header)
