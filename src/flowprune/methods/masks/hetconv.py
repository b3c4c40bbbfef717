"""HetConv's pattern: whole kernels on every p-th channel, a single tap in the middle on the others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from flowprune.errors import FlowpruneError
from flowprune.methods.masks.fixed_pattern import FixedPattern
from flowprune.methods.masks.registry import REGISTRY


@REGISTRY.register("hetconv")
class HetConv(FixedPattern):
    """Filter f has its whole kernel on the channels c with (c - f) mod p = 0, and the centre tap alone on all others.

    Singh et al., HetConv: Heterogeneous Kernel-Based Convolutions for Deep CNNs, CVPR 2019, arXiv 1903.04120, section 3: a 1x1
    convolution on the other channels is the centre tap of a larger one whose padding is (K - 1) / 2. Of a convolution whose
    channels p divides (K^2 + p - 1) / (K^2 p) stays: a third for p = 4 and 3x3. Compared with a public implementation. Kernels
    without a centre (an even size) and 1x1 stay whole.

    Args:
        p: one kernel in p is whole; at least 2.
        first_dense: the first convolution stays whole.

    Raises:
        FlowpruneError: ``p`` is no such number.

    Example:
        >>> weight = torch.empty(2, 2, 3, 3)
        >>> HetConv(p=2, first_dense=False).select({"weight": weight})["weight"].sum((2, 3)).tolist()
        [[9, 1], [1, 9]]
    """

    def __init__(self, *, p: int = 4, first_dense: bool = True) -> None:
        super().__init__(first_dense=first_dense)
        if isinstance(p, bool) or not isinstance(p, int) or p < 2:
            raise FlowpruneError(f"p={p!r} is not known: use a whole number of at least 2")
        self.p = p

    def table(self, kernel: tuple[int, ...]) -> torch.Tensor | None:
        """The whole kernel, then p - 1 times its centre; None where there is no centre, or nothing beside it."""
        if any(size % 2 == 0 for size in kernel) or all(size == 1 for size in kernel):
            return None
        taps = math.prod(kernel)
        table = torch.zeros(self.p, taps, dtype=torch.bool)
        table[0] = True
        table[:, taps // 2] = True  # all sizes are odd, so the one in the middle is the centre
        return table.view(self.p, *kernel)

    def index(self, filters: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """(c - f) mod p."""
        return (channels - filters) % self.p

    def settings(self) -> Iterator[FixedPattern]:
        """p from 2 to 64."""
        return (HetConv(p=p) for p in range(2, 65))

    def __str__(self) -> str:
        return f"hetconv with p={self.p}"
