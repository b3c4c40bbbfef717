"""Pre-defined sparsity: 3x3 kernels of a few taps, in a period, with one whole kernel in it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from flowprune.errors import FlowpruneError
from flowprune.methods.masks.fixed_pattern import FixedPattern
from flowprune.methods.masks.registry import REGISTRY

_SPARSE_KERNELS = {
    1: ((0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,), (8,)),
    2: ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8)),
    4: ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8)),
}
"""Taps a kernel -> the kernels that take turns, as positions 0 to 8, row by row."""


@REGISTRY.register("predefined_sparsity")
class PredefinedSparsity(FixedPattern):
    """Kernel (f, c) of a 3x3 convolution is the one whole kernel of the period where (f + c + 1) mod P = 0, else one of n taps.

    Kundu et al., Pre-defined Sparsity for Low-Complexity Convolutional Neural Networks, IEEE Transactions on Computers 2020, arXiv
    2001.10710: PSD{n}_P{P}. Where (f + c + 1) mod P = i > 0, the kernel is number i - 1 of those of n taps, counted round: of two
    taps side by side (6 kernels), or of a 2x2 square (4). Of a long layer ((P - 1) n + 9) / (9 P) stays: 51.4 % for n = 4, P = 8.
    The masks for n = 2 and n = 4 are compared with the authors' code; that for n = 1, whose single taps go row by row, is made by
    the same rule. Other kernel sizes stay whole.

    Args:
        taps: n, the taps of a sparse kernel: 1, 2 or 4.
        period: P, at least 2.
        first_dense: the first convolution stays whole.

    Raises:
        FlowpruneError: ``taps`` or ``period`` is none of these.

    Example:
        >>> weight = torch.empty(8, 8, 3, 3)
        >>> masks = PredefinedSparsity(taps=4, period=8, first_dense=False).select({"weight": weight})
        >>> masks["weight"][0, 0].int().tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """

    def __init__(self, *, taps: int = 4, period: int = 8, first_dense: bool = True) -> None:
        super().__init__(first_dense=first_dense)
        if taps not in _SPARSE_KERNELS:
            raise FlowpruneError(f"taps={taps!r} is not known; use 1, 2 or 4")
        if isinstance(period, bool) or not isinstance(period, int) or period < 2:
            raise FlowpruneError(f"period={period!r} is not a period: use a whole number of at least 2")
        self.taps, self.period = taps, period

    def table(self, kernel: tuple[int, ...]) -> torch.Tensor | None:
        """The whole kernel, then those of n taps in turn; None for anything but 3x3."""
        if kernel != (3, 3):
            return None
        kernels = _SPARSE_KERNELS[self.taps]
        table = torch.zeros(self.period, 9, dtype=torch.bool)
        table[0] = True
        for number in range(1, self.period):
            table[number, list(kernels[(number - 1) % len(kernels)])] = True
        return table.view(self.period, 3, 3)

    def index(self, filters: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """(f + c + 1) mod P."""
        return (filters + channels + 1) % self.period

    def settings(self) -> Iterator[FixedPattern]:
        """Every number of taps, with periods from 2 to 32."""
        for taps in _SPARSE_KERNELS:
            for period in range(2, 33):
                yield PredefinedSparsity(taps=taps, period=period)

    def __str__(self) -> str:
        return f"predefined_sparsity with taps={self.taps}, period={self.period}"
