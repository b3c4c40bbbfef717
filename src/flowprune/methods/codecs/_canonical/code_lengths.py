"""How long the words of a Huffman code are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowprune.errors import FlowpruneError

LONGEST = 57
"""Longest word that a window of eight bytes holds wherever in a byte it begins. A longer one needs 1.5 million million entries."""


def code_lengths(counts: Sequence[int]) -> NDArray[np.uint8]:
    """Lengths of the words of a shortest prefix code.

    Huffman, A Method for the Construction of Minimum-Redundancy Codes, 1952, with two queues: symbols wait in the order of
    their counts, and what was joined waits in the order it was joined in. On ties a symbol goes first, which keeps the longest
    word as short as it can be.

    Args:
        counts: how often each symbol occurs, positive, largest first.

    Returns:
        ``[symbols]``, ascending; a single symbol takes 0 bits.

    Raises:
        FlowpruneError: a word is longer than 57 bits.
    """
    symbols = len(counts)
    if symbols < 2:
        return np.zeros(symbols, np.uint8)
    weights = list(counts)[::-1]
    parent = [0] * (2 * symbols - 1)
    symbol, joined = 0, symbols
    for node in range(symbols, 2 * symbols - 1):
        total = 0
        for _ in range(2):
            if symbol < symbols and (joined >= node or weights[symbol] <= weights[joined]):
                lightest, symbol = symbol, symbol + 1
            else:
                lightest, joined = joined, joined + 1
            parent[lightest] = node
            total += weights[lightest]
        weights.append(total)
    depth = [0] * (2 * symbols - 1)
    for node in range(2 * symbols - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    if max(depth) > LONGEST:
        raise FlowpruneError(
            f"a code word would be {max(depth)} bits long, at most {LONGEST} are stored; use packed_bits"
        )
    return np.sort(np.array(depth[:symbols], np.uint8))
