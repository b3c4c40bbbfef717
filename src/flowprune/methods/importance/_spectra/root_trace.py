"""The trace of the square root of many tridiagonal matrices at once, without their eigenvalues.

For an eigenvalue x >= 0,

    sqrt(x) = 1 / (2 pi)  *  integral over t > 0 of  log(1 + x / t) / sqrt(t) dt,

so the sum over all eigenvalues of T needs ``log det(I + T / t)`` only, which for a tridiagonal matrix is one recurrence along
the diagonal, the same arithmetic for every matrix and every t. With t = e^u the trapezoidal rule converges exponentially: its
integrand is analytic up to a distance of pi from the real axis, which leaves an error of 2 exp(-2 pi^2 / step). An eigenvalue
that rounding has made negative contributes its real part, which is zero in the integral and on average over where the nodes lie.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

_STEP = 0.75
_FIRST, _LAST = -62.0, 11.5
"""Of u, relative to the logarithm of the largest eigenvalue: what is left out below is some 1e-12 of the sum, what lies above is a
geometric series in the first two moments."""
_PIVOTS = 8
"""Pivots multiplied before their logarithm is taken: each is at most 1e28."""


class RootTraces(NamedTuple):
    """Of each of several tridiagonal matrices, float64 ``[matrices]``.

    Attributes:
        sums: of the square roots of the eigenvalues; relative error about 1e-10 where the matrices are exact.
        scales: a bound of the largest eigenvalue (Gershgorin's).
        above: about how many eigenvalues are larger than ``floor`` times that.
    """

    sums: torch.Tensor
    scales: torch.Tensor
    above: torch.Tensor


def root_traces(diagonals: torch.Tensor, beside: torch.Tensor, floor: float = 1e-15) -> RootTraces:
    """Sum of the square roots of the eigenvalues of each tridiagonal matrix.

    Args:
        diagonals: ``[matrices, n]``, float64; the matrices are positive semi-definite up to rounding.
        beside: ``[matrices, n - 1]``, the off-diagonals.
        floor: see ``RootTraces.above``.
    """
    squares = torch.zeros_like(diagonals)  # of the entry beside a diagonal's, towards the start
    squares[:, 1:] = beside.square()
    # Gershgorin: no eigenvalue is larger
    reach = torch.zeros_like(diagonals)
    reach[:, 1:] += beside.abs()
    reach[:, :-1] += beside.abs()
    scale = (diagonals + reach).amax(dim=1)
    living = scale > 0
    unit = torch.where(living, scale, 1.0)[:, None]
    diagonals, squares = diagonals / unit, squares / unit.square()

    nodes = torch.exp(torch.arange(_FIRST, _LAST, _STEP, dtype=torch.float64, device=diagonals.device))
    logarithms = _log_determinants(diagonals, squares, nodes)
    failed = ~torch.isfinite(logarithms).all(dim=1)
    if bool(failed.any()):
        logarithms[failed] = _log_determinants(diagonals[failed], squares[failed], nodes, guarded=True)

    inside = logarithms @ nodes.sqrt()
    root, ratio = math.sqrt(nodes[-1]), math.exp(-_STEP / 2)
    trace, second = diagonals.sum(dim=1), diagonals.square().sum(dim=1) + 2 * squares.sum(dim=1)
    beyond = trace / root * ratio / (1 - ratio) - second / 2 / root**3 * ratio**3 / (1 - ratio**3)
    found = (inside + beyond) * _STEP / (2 * math.pi) * unit[:, 0].sqrt()
    # the derivative of log det by log t is minus the sum of x / (x + t), which counts what is above t
    node = min(len(nodes) - 2, round((math.log(floor) - _FIRST) / _STEP))
    above = (logarithms[:, node] - logarithms[:, node + 1]) / _STEP
    return RootTraces(torch.where(living, found, 0.0), scale, above)


def _log_determinants(
    diagonals: torch.Tensor, squares: torch.Tensor, nodes: torch.Tensor, guarded: bool = False
) -> torch.Tensor:
    """log |det(I + T / t)| of every matrix at every node t: ``[matrices, nodes]``.

    Where rounding leaves nothing of a pivot, zero times infinity follows; ``guarded`` puts a one in its place, as small beside what
    was rounded. That takes as long again, and few matrices need it.
    """
    logarithms = torch.zeros(len(diagonals), len(nodes), dtype=torch.float64, device=diagonals.device)
    product = torch.ones_like(logarithms)
    pivot = torch.ones_like(logarithms)
    over, over_squared = nodes.reciprocal(), nodes.square().reciprocal()
    for begin in range(0, diagonals.shape[1], _PIVOTS):
        # [columns, matrices, nodes]: what the recurrence takes, all at once
        added = diagonals[:, begin : begin + _PIVOTS].mT[:, :, None] * over + 1
        divided = squares[:, begin : begin + _PIVOTS].mT[:, :, None] * over_squared
        product.fill_(1)
        for add, square in zip(added.unbind(), divided.unbind(), strict=True):
            pivot = add.sub_(square.div_(pivot))
            if guarded:
                pivot.masked_fill_(pivot == 0, 1)
            product *= pivot
        logarithms += product.abs_().log_()
    return logarithms
