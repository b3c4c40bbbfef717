"""Symbols as one stream of code words, written and read many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.errors import ArtifactError
from flowprune.methods.codecs._canonical.canonical_code import CanonicalCode

WRITTEN_AT_ONCE = 1 << 16  # symbols
READ_AT_ONCE = 1 << 12  # bytes: the jumps of a block stay in a core's cache


def write(symbols: NDArray[np.int64], code: CanonicalCode, word: int) -> tuple[NDArray[Any], int]:
    """Code words one after the other, first bit first, the last machine word filled up with zeros.

    Args:
        symbols: ``[n]``, numbers of symbols of the code.
        code: the code.
        word: bits of a machine word: 8, 16, 32 or 64.

    Returns:
        The machine words, and how many bits of them are in use.
    """
    lengths = code.lengths.astype(np.int64)
    words = code.words[:-1] >> (np.uint64(code.longest) - code.lengths.astype(np.uint64))
    used = int(lengths[symbols].sum())
    bits = np.zeros(-(-used // word) * word, np.uint8)
    start = 0
    for begin in range(0, len(symbols), WRITTEN_AT_ONCE):
        block = symbols[begin : begin + WRITTEN_AT_ONCE]
        length = lengths[block]
        end = np.cumsum(length)
        behind = np.repeat(end, length) - 1 - np.arange(int(end[-1]))  # bits of the same word that follow this one
        bits[start : start + int(end[-1])] = (np.repeat(words[block], length) >> behind.astype(np.uint64)) & np.uint64(
            1
        )
        start += int(end[-1])
    return np.packbits(bits).view(f">u{word // 8}").astype(f"u{word // 8}"), used


def read(stream: NDArray[Any], code: CanonicalCode, table: NDArray[Any], count: int, used: int) -> NDArray[np.int64]:
    """The symbols that ``write`` wrote.

    Where a word begins is known only when the one before is read. So the word that *would* begin is found at every bit of a
    block, all at once; that gives a jump from every bit to the next, and by jumping twice as far each time all true beginnings
    are found in as many rounds as their number has binary digits.

    Args:
        stream: the machine words.
        code: the code.
        table: of ``CanonicalCode.table``, or empty.
        count: how many symbols there are.
        used: how many bits they take.

    Returns:
        ``[count]``, numbers of symbols.

    Raises:
        ArtifactError: the stream does not hold ``count`` words in ``used`` bits.
    """
    wrong = ArtifactError(f"damaged code stream: it does not hold {count} code words in {used} bits")
    longest = code.longest
    room = 8 * stream.nbytes
    if (count and not len(code.lengths)) or not 0 <= used <= room or room - used >= 8 * stream.itemsize:
        raise wrong
    if not count or not longest:
        if used:
            raise wrong
        return np.zeros(count, np.int64)
    octets = np.frombuffer(stream.astype(stream.dtype.newbyteorder(">")).tobytes() + bytes(8), np.uint8)
    first_symbol, first_code = code.first_symbol.astype(np.int64), code.first_code.astype(np.uint64)
    table_bits = len(table).bit_length() - 1
    found, position, missing = [], 0, count
    while missing and position < used:
        octet, offset = divmod(position, 8)
        window = _windows(octets[octet : octet + READ_AT_ONCE + 7], longest)
        length = _lengths(window, first_code, longest, table, table_bits)
        starts = _chain(offset, length)[:missing]
        size = length[starts].astype(np.int64)
        within = (window[starts] - first_code[size]) >> (longest - size).astype(np.uint64)
        found.append(first_symbol[size] + within.astype(np.int64))
        missing -= len(starts)
        position = 8 * octet + int(starts[-1] + size[-1])
    if missing or position != used:
        raise wrong
    return np.concatenate(found)


def _windows(octets: NDArray[np.uint8], longest: int) -> NDArray[np.uint64]:
    """The ``longest`` bits from every bit of all octets but the last seven."""
    eight = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(octets, 8)).view(">u8").astype(np.uint64)
    return ((eight << np.arange(8, dtype=np.uint64)) >> np.uint64(64 - longest)).ravel()


def _lengths(
    window: NDArray[np.uint64], first_code: NDArray[np.uint64], longest: int, table: NDArray[Any], table_bits: int
) -> NDArray[np.int32]:
    """How long the word is that each window begins with."""
    if not len(table):
        return np.searchsorted(first_code[1:-1], window, side="right").astype(np.int32)
    length: NDArray[np.int32] = table[window >> np.uint64(longest - table_bits)].astype(np.int32)
    beyond = np.flatnonzero(length == 0)
    length[beyond] = np.searchsorted(first_code[1:-1], window[beyond], side="right")
    return length


def _chain(start: int, length: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where words begin from ``start`` on, each behind the one before, as long as they begin within the block."""
    end = len(length)
    jump = np.append(np.minimum(np.arange(end) + length, end), end).astype(np.int32)
    visited = np.array([start], np.int32)
    while jump[start] != end:
        further = jump[visited]
        visited = np.concatenate([visited, further[further < end]])
        jump = jump[jump]
    return visited.astype(np.int64)
