"""HAM: Huffman code over all entries of a matrix."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.methods.codecs._canonical.huffman_parts import HuffmanCoded, coded, decoded
from flowprune.methods.codecs._canonical.matrix import as_array, as_matrix, checked_symbols, description, size_of
from flowprune.methods.codecs._canonical.seal import opened, sealed
from flowprune.methods.codecs.registry import REGISTRY


@REGISTRY.register("huffman")
class Huffman(HuffmanCoded):
    """Huffman code over all entries, zeros too (HAM), column by column in machine words.

    Marinò, Ghidoli, Frasca & Malchiodi, Compression strategies and space-conscious representations for deep neural networks,
    ICPR 2020, and Marinò, Petrini, Malchiodi & Frasca, Compact representations of convolutional neural networks via weight
    pruning and quantization, arXiv 2108.12704, with the canonical code of their later package. For a matrix of k different
    values, code words of at most L bits, words of b bits and ``bits(x)`` the smallest of 8, 16, 32, 64 with x < 2^bits::

        ceil(sum_v length_v count_v / b) b + k b + (L + 1) bits(k) + (L + 2) bits(2^L)    stream, symbols, first_symbol, first_code
        + 2^t bits(L)                                                                     the decoding table

    is what ``bits(parts)`` counts; without ``table`` it is the authors' figure for no table. Compared with the authors' code
    (fixtures), which stores float32; here a symbol takes what a number of the array takes. Different on purpose: an entry of
    the table is 0 where the first t bits do not decide the length, where theirs then compares numbers of unlike width; and
    all-zero and empty arrays can be stored.

    Args:
        word: b, bits of a machine word of the stream: 8, 16, 32 or 64.
        table_bits: t; the table holds the length of the code word for every choice of the next t bits (at most L of them).
            0 stores no table: smaller, and slower to decode.

    Raises:
        FlowpruneError: an option is none of these.

    Example:
        >>> codec = Huffman()
        >>> parts = codec.encode(np.array([[0.5, 0.0], [0.0, 0.5]], np.float32))
        >>> codec.decode(parts)
        array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)
    """

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array.

        Args:
            array: any shape: its matrix has the first dimension as rows and all others as columns.

        Raises:
            FlowpruneError: it holds no whole or floating-point numbers of at most 8 bytes.
        """
        used, arrays = coded(as_matrix(array).T.ravel(), self.word, self.table_bits)
        return sealed("huffman", {**description(array), "stream_bits": used}, arrays)

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit; options of the codec are not needed, the parts know theirs.

        Raises:
            ArtifactError: the parts are damaged, or another codec's.
        """
        header, arrays = opened(parts, "huffman")
        rows, columns = size_of(tuple(header["shape"]))
        values = checked_symbols(decoded(arrays, rows * columns, header["stream_bits"]), header)
        return as_array(values.reshape(columns, rows).T, header)
