"""Ties between counts: groups whose sizes the code computes from one another, and which must therefore lose the same share.

``C // num_heads`` with C read off a tensor makes the number of heads follow the width of the stream, though no channel of one is a
channel of the other. What keeps such arithmetic true is to take the same share from both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flowprune.engine.coupling.labels import Array, classes_of
from flowprune.engine.coupling.notes import Freeze, Tie


@dataclass
class Shares:
    """What the ties ask for.

    Attributes:
        classes: groups that must lose channels in step, by index.
        strides: for each group, how many of its channels leave in one step of its class.
        unmatched: channels that must stay.
    """

    classes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...] = ()
    unmatched: list[Freeze] = field(default_factory=list)


def match_shares(
    ties: Sequence[Tie], roots: Array, channels: list[Array], classes: tuple[tuple[int, ...], ...]
) -> Shares:
    """Merge the classes that ties connect; one step of a class takes the same share of each of its groups.

    Where a part of one side stays, the other side cannot keep up with it, and both stay.

    Args:
        ties: what was noted.
        roots: the component of every label.
        channels: for each group, the component of every channel.
        classes: groups that must lose equally many, by index.
    """
    result = Shares(classes)
    group_of = np.full(len(roots), -1, dtype=np.int64)
    for group, members in enumerate(channels):
        group_of[members] = group
    class_of = {group: number for number, groups in enumerate(classes) for group in groups}
    together: list[tuple[int, int]] = []
    seen: set[tuple[bytes, bytes]] = set()
    for tie in ties:
        left, right = np.sort(roots[tie.left]), np.sort(roots[tie.right])
        key = (left.tobytes(), right.tobytes())
        if key in seen or _is_repeated(left, right):
            continue
        seen.add(key)
        alive = [side[group_of[side] >= 0] for side in (left, right)]
        if len(alive[0]) * len(right) != len(alive[1]) * len(left):
            reason = f"their number follows from that of channels that stay ({tie.place})"
            result.unmatched += [Freeze(side, reason) for side in alive if len(side)]
            continue
        tied = [class_of[group] for side in alive for group in np.unique(group_of[side]).tolist()]
        together += [(tied[0], other) for other in tied[1:]]
    merged = classes_of(len(classes), together)
    result.classes = tuple(tuple(group for number in numbers for group in classes[number]) for numbers in merged)
    strides = [1] * len(channels)
    for groups in result.classes:
        steps = math.gcd(*(len(channels[group]) for group in groups))
        for group in groups:
            strides[group] = len(channels[group]) // steps
        if steps == 1 < max(strides[group] for group in groups):
            members = np.concatenate([channels[group] for group in groups])
            result.unmatched.append(
                Freeze(members, "tied to a number of channels that has no common divisor with theirs")
            )
    result.strides = tuple(strides)
    return result


def _is_repeated(left: Array, right: Array) -> bool:
    """Whether both sides hold the same channels in the same proportions: they lose the same share whatever leaves."""
    if len(left) > len(right):
        left, right = right, left
    return len(right) % len(left) == 0 and np.array_equal(np.repeat(left, len(right) // len(left)), right)
