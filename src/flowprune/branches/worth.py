"""Whether opening a branch pays: what the live ends no longer compute, against what putting them at their places costs."""

from __future__ import annotations

MACS_PER_MOVED = 8.0
"""Multiply-accumulates that take as long as moving one element of the stream's width, from ``benchmarks/branch_speed.py``."""


def is_worth_opening(channels: int, dead: int, macs_per_end: int, positions: int) -> bool:
    """Whether a branch with dead ends runs faster opened.

    Opened, it fills a tensor of the stream's width with constants and copies its live ends into it: ``channels`` and
    ``channels - dead`` elements a position.

    Args:
        channels: of the stream.
        dead: ends that would leave.
        macs_per_end: multiply-accumulates an image that one end takes.
        positions: of one channel of an image.
    """
    moved = (2 * channels - dead) * positions
    return dead * macs_per_end >= MACS_PER_MOVED * moved
