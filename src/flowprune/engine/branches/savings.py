"""Whether opening a branch pays: what the live ends no longer compute, against what putting them at their places costs."""

from __future__ import annotations

MACS_PER_MOVED = 24.0
"""Multiply-accumulates that must be saved for every element moved, from ``benchmarks/branch_speed/run.py``: where fewer are,
PyTorch or ONNX Runtime loses time."""

BLOCK = 16
"""Convolutions compute this many channels at once: fewer take as long as a whole block."""


def is_worth_opening(channels: int, live: int, macs_per_end: int, positions: int) -> bool:
    """Whether a branch with dead ends runs faster opened.

    Opened, it fills a tensor of the stream's width with constants and copies its live ends into it: ``channels`` and ``live``
    elements a position.

    Args:
        channels: of the stream.
        live: ends that stay.
        macs_per_end: multiply-accumulates an image that one end takes.
        positions: of one channel of an image.
    """
    saved = _in_blocks(channels) - _in_blocks(live)
    return saved * macs_per_end >= MACS_PER_MOVED * (channels + live) * positions


def is_worth_reading(channels: int, read: int, macs_per_channel: int, positions: int) -> bool:
    """Whether a branch's first convolution runs faster on a copy of the channels that it needs: ``read`` elements a position.

    Args:
        channels: of the stream.
        read: how many are needed.
        macs_per_channel: multiply-accumulates an image that one of them takes.
        positions: of one channel of an image.
    """
    saved = _in_blocks(channels) - _in_blocks(read)
    return saved * macs_per_channel >= MACS_PER_MOVED * read * positions


def _in_blocks(width: int) -> int:
    return -(-width // BLOCK) * BLOCK
