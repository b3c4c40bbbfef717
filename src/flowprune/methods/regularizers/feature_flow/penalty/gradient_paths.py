"""Which features will be given a gradient by what is computed from later ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def fed_by_later(features: Sequence[Tensor | None], pulled: Sequence[bool]) -> list[bool]:
    """For every feature whether autograd's graph leads to it from a later one that the penalty pulls at.

    The last one is never fed, nor is a copy that nobody else reads, nor are the outputs of one compiled graph.
    """
    fed = [False] * len(features)
    reached: set[tuple[Any, int]] = set()
    visited: set[Any] = set()
    for index in range(len(features) - 1, -1, -1):
        feature = features[index]
        if feature is None or feature.grad_fn is None or not pulled[index]:
            continue
        if (feature.grad_fn, feature.output_nr) in reached:
            fed[index] = True
            continue
        waiting = [feature.grad_fn]
        while waiting:
            node = waiting.pop()
            if node in visited:
                continue
            visited.add(node)
            for following, output in node.next_functions:
                if following is not None:
                    reached.add((following, output))
                    waiting.append(following)
    return fed
