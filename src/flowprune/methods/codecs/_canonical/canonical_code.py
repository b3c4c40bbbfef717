"""A canonical Huffman code: everything about it follows from how many words of each length there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.errors import ArtifactError


def unsigned(largest: int) -> np.dtype[Any]:
    """The smallest of 8, 16, 32 and 64 bits with ``largest < 2^bits``, the authors' rule."""
    return np.dtype(next(f"u{size}" for size in (1, 2, 4, 8) if largest < 2 ** (8 * size)))


@dataclass(frozen=True)
class CanonicalCode:
    """Words in the order of their symbols, the shortest first, each one more than the last.

    Filled up with zeros to the longest word, word i is the number of such windows that begin with an earlier word, so the
    words are a running sum. Liddell & Moffat, Decoding prefix codes, 2006.

    Attributes:
        lengths: ``[symbols]``, ascending.
        words: ``[symbols + 1]``, uint64, filled up to the longest; the last is the number of all windows.
    """

    lengths: NDArray[np.uint8]
    words: NDArray[np.uint64]

    @classmethod
    def of(cls, lengths: NDArray[np.uint8]) -> CanonicalCode:
        """The code with words of these lengths (ascending)."""
        longest = int(lengths[-1]) if len(lengths) else 0
        windows = np.uint64(1) << (np.uint64(longest) - lengths.astype(np.uint64))
        return cls(lengths, np.concatenate([np.zeros(1, np.uint64), np.cumsum(windows, dtype=np.uint64)]))

    @classmethod
    def read(cls, first_symbol: NDArray[Any], first_code: NDArray[Any], symbols: int) -> CanonicalCode:
        """The code whose tables were stored.

        Raises:
            ArtifactError: they are not the tables of a complete code for so many symbols.
        """
        code = cls.of(np.searchsorted(first_symbol[1:], np.arange(symbols), side="right").astype(np.uint8))
        fits = np.array_equal(code.first_symbol, first_symbol) and np.array_equal(code.first_code, first_code)
        if not fits or (symbols and int(code.words[-1]) != 1 << code.longest):
            raise ArtifactError(f"damaged code tables: they are not those of a prefix code for {symbols} symbols")
        return code

    @property
    def longest(self) -> int:
        """Bits of the longest word; 0 where there is one symbol or none."""
        return int(self.lengths[-1]) if len(self.lengths) else 0

    @property
    def first_symbol(self) -> NDArray[Any]:
        """``[longest + 1]``: the first symbol whose word has at least so many bits. Empty where there are no symbols."""
        reached = np.searchsorted(self.lengths, np.arange(self.longest + 1), side="left")
        return reached.astype(unsigned(len(self.lengths)))[: None if len(self.lengths) else 0]

    @property
    def first_code(self) -> NDArray[Any]:
        """``[longest + 2]``: the words of those symbols, filled up to the longest, and the number of all windows."""
        chosen = np.append(self.words[self.first_symbol.astype(np.int64)], self.words[-1])
        return chosen.astype(unsigned(1 << self.longest))[: None if len(self.lengths) else 0]

    def table(self, bits: int) -> NDArray[Any]:
        """The length of the word that a window with these first bits begins with; 0 where it is longer than ``bits``.

        Args:
            bits: at most ``longest``; with 0 there is no table.

        Returns:
            ``[2^bits]``, uint8; empty for 0.
        """
        if not bits:
            return np.zeros(0, np.uint8)
        short = self.lengths[self.lengths <= bits].astype(np.int64)
        found = np.repeat(short, 1 << (bits - short))
        return np.concatenate([found, np.zeros((1 << bits) - len(found), np.int64)]).astype(np.uint8)
