"""ECSQ: shared values that cost few bits after entropy coding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError
from flowprune.methods.quantizers._shared_values.shared_values import (
    SIZES,
    SharedValues,
    checked_values,
    pooled,
    shared,
)
from flowprune.methods.quantizers.registry import REGISTRY

AT_ONCE = 1 << 22  # products of weights and values
SOME = 20_000
MOST = 1e4  # variances that a nat may be worth


@REGISTRY.register("ecsq")
class EntropyConstrained:
    """Shared values that weigh the squared error against the bits of a code for them (ECSQ).

    Chou, Lookabaugh & Gray, Entropy-constrained vector quantization, 1989; Marinò, Petrini, Malchiodi & Frasca, arXiv
    2108.12704, section 3. From ``start`` cells of equal count with means c and shares p, repeat::

        assign w to argmin_l (w - c_l)^2 - strength ln p_l;   J = its mean;   c = means, p = shares, empty cells leave

    until J falls by at most ``tolerance`` or at most ``values`` cells are left. Compared with the authors' code (fixtures).
    """

    size_option: ClassVar[str] = "values"
    sizes: ClassVar[tuple[int, ...]] = SIZES

    def fit(
        self,
        weights: Mapping[str, Tensor],
        *,
        values: int,
        strength: float | None = None,
        start: int | None = None,
        tolerance: float | None = None,
        keep_zeros: bool = True,
    ) -> SharedValues:
        """Codes and codebook.

        Args:
            weights: by parameter name, any shapes.
            values: how many shared values; with a ``strength`` given the iteration may end with more, as the authors' does.
            strength: lambda, the squared error that a nat is worth; if None, about the smallest that leaves at most ``values``.
            start: cells to start from; three times ``values`` if None, as in the paper.
            tolerance: how much J must fall for another round, in squared weights; a millionth of the variance if None.
            keep_zeros: whether weights that are zero (masked) stay zero, outside the codebook.

        Raises:
            FlowpruneError: ``values`` or ``start`` is below 1, ``strength`` is negative, or there is no finite weight to quantize.
        """
        line, held = pooled(weights, keep_zeros)
        cells = 3 * checked_values(values, 1) if start is None else checked_values(start, 1)
        variance = float(line.var(correction=0))
        least = 1e-6 * variance if tolerance is None else tolerance
        if strength is not None and not strength >= 0:
            raise FlowpruneError(f"strength={strength}: what a bit is worth cannot be negative")
        if strength is not None:
            codebook, codes = _iterate(line, cells, values, strength, least)
        else:
            codebook, codes = _at_most(line, cells, values, variance, least)
        order = torch.argsort(codebook)
        return shared(weights, held, codebook[order], torch.argsort(order)[codes])


def _at_most(line: Tensor, cells: int, values: int, variance: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """With the smallest strength that leaves few enough values, bisected on some of the weights."""
    ordered = torch.sort(line).values
    some = ordered[torch.linspace(0, len(line) - 1, min(SOME, len(line)), dtype=torch.float64).long()]
    low, high = 0.0, 1e-6 * variance
    while len(_iterate(some, cells, values, high, tolerance)[0]) > values and high <= MOST * variance:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if len(_iterate(some, cells, values, middle, tolerance)[0]) > values else (low, middle)
        )
    found = _iterate(line, cells, values, high, tolerance)
    while len(found[0]) > values and high <= MOST * variance:
        high *= 1.1
        found = _iterate(line, cells, values, high, tolerance)
    # Cells that stay equally full cost the same however much a bit is worth: then as many as are wanted from the start.
    return found if len(found[0]) <= values else _iterate(line, values, values, 0.0, tolerance)


def _iterate(line: Tensor, cells: int, values: int, strength: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """Codebook and codes of the iteration from cells of equal count."""
    parts = [part for part in torch.tensor_split(torch.sort(line).values, cells) if len(part)]
    centres = torch.stack([part.mean() for part in parts])
    shares = torch.tensor([len(part) / len(line) for part in parts], dtype=torch.float64)
    last = float("inf")
    while True:
        codes, cost = _assign(line, centres, strength * shares.log())
        counts = torch.bincount(codes, minlength=len(centres))
        sums = torch.bincount(codes, line, minlength=len(centres))
        kept = counts > 0
        centres, shares = (sums / counts)[kept], counts[kept] / len(line)
        codes = (torch.cumsum(kept, 0) - 1)[codes]
        if last - cost <= tolerance or len(centres) <= values:
            return centres, codes
        last = cost


def _assign(line: Tensor, centres: Tensor, worth: Tensor) -> tuple[Tensor, float]:
    """The cheapest cell of every weight, the first on ties, and the mean cost."""
    codes, total = [], 0.0
    for part in line.split(max(1, AT_ONCE // len(centres))):
        cost = (part[:, None] - centres).square() - worth
        # not the index min gives: which of several equal ones that is, is not said
        least = cost.amin(1, keepdim=True)
        codes.append((cost == least).int().argmax(1))
        total += float(least.sum())
    return torch.cat(codes), total / len(line)
