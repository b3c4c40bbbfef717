"""Nuclear norms of batches of matrices: singular values of small ones, Gram matrices of large ones and their eigenvalues, or, for
many large ones on the CPU, the trace of their square root without eigenvalues.

The nuclear norm of A is the sum of its singular values, which are the square roots of the eigenvalues of ``A A^T``.
Squaring costs half of the digits of the small singular values, so a rank-deficient A must never be squared on its
longer side (its null space would add noise); on the shorter side an error of 1e-8 is left in float64 where A is
singular. Small matrices on the CPU are not squared at all: there a direct decomposition takes no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from flowprune.methods.importance._spectra.root_trace import root_traces
from flowprune.methods.importance._spectra.threads import in_threads
from flowprune.methods.importance._spectra.tridiagonal import one_thread_each, tridiagonal

_CHUNK_BYTES = 64 * 2**20

_SMALL = 32
"""Up to this shorter side LAPACK's singular values are as fast as the product and its eigenvalues (on one core)."""


class NuclearNorms(NamedTuple):
    """Of several matrices, ``[matrices]``.

    Attributes:
        norms: float64.
        doubtful: whether what float32 leaves of singular values that are zero may be more than a few thousandths of a norm.
    """

    norms: torch.Tensor
    doubtful: torch.Tensor


def eigenvalue_nuclear_norms(gram: torch.Tensor) -> NuclearNorms:
    """Sum of the square roots of the eigenvalues of each Gram matrix.

    Args:
        gram: ``[matrices, n, n]``, symmetric and positive semi-definite up to rounding; only the lower triangle is read.
            Negative eigenvalues are rounding errors and count as zero. Where the maps' squares were too large for its type,
            the norm is NaN.
    """
    if len(gram) == 1:
        gram = _without_zeros(gram)
    overflown = ~torch.isfinite(gram.diagonal(0, 1, 2)).all(dim=1)
    if bool(overflown.any()):  # LAPACK would complain on standard error
        found = eigenvalue_nuclear_norms(gram.masked_fill(overflown[:, None, None], 0))
        return NuclearNorms(found.norms.masked_fill(overflown, torch.nan), found.doubtful)
    values = _eigenvalues(gram)
    norms: torch.Tensor = values.clamp_min(0).sqrt().sum(dim=-1, dtype=torch.float64)
    if gram.dtype != torch.float32 or not gram.shape[1]:
        return NuclearNorms(norms, torch.zeros_like(norms, dtype=torch.bool))
    largest = values.amax(dim=-1).clamp_min(0)
    small = (values < _FLOOR * largest[:, None]).sum(dim=-1)
    return NuclearNorms(norms, _doubtful(norms, largest.to(torch.float64), small))


def nuclear_norms_in_threads(gram_of: Callable[[int], torch.Tensor], count: int) -> NuclearNorms:
    """The same for large Gram matrices on the CPU, without their eigenvalues, which take longer: each is reduced to
    tridiagonal form in a thread, and then the sums of all are found together.

    Args:
        gram_of: number of a matrix -> ``[n, n]``, as above, which may be overwritten; called in threads, and again for a matrix
            that the reduction fails at.
        count: how many matrices there are.
    """

    def reduced(number: int) -> _Tridiagonal | NuclearNorms:
        gram = gram_of(number)
        found = tridiagonal(_without_zeros(gram[None])[0].contiguous())
        if found is None:
            return eigenvalue_nuclear_norms(gram_of(number)[None])
        return _Tridiagonal(*found, gram.dtype == torch.float32)

    with one_thread_each():
        forms = in_threads(reduced, range(count))
    found = NuclearNorms(torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool))
    tridiagonals: dict[int, _Tridiagonal] = {}
    for number, form in enumerate(forms):
        if isinstance(form, NuclearNorms):
            found.norms[number], found.doubtful[number] = form.norms[0], form.doubtful[0]
        else:
            tridiagonals[number] = form
    for numbers in _of_like_size({number: len(form.diagonal) for number, form in tridiagonals.items()}):
        chosen = [tridiagonals[number] for number in numbers]
        # a matrix without its zeros is smaller; zeros behind it add nothing
        traces = root_traces(
            pad_sequence([form.diagonal for form in chosen], batch_first=True),
            pad_sequence([form.beside for form in chosen], batch_first=True),
            floor=_FLOOR,
        )
        sizes = torch.tensor([len(form.diagonal) for form in chosen])
        rounded = torch.tensor([form.rounded for form in chosen])
        found.norms[numbers] = traces.sums
        found.doubtful[numbers] = rounded & _doubtful(traces.sums, traces.scales, sizes - traces.above)
    return found


class _Tridiagonal(NamedTuple):
    diagonal: torch.Tensor
    beside: torch.Tensor
    rounded: bool
    """Whether it comes from a matrix in float32."""


def _of_like_size(sizes: dict[int, int]) -> list[list[int]]:
    """The numbers of matrices in batches of like sizes, few enough for a batch's numbers to stay in the cache."""
    batches: list[list[int]] = []
    for number in sorted(sizes, key=lambda number: sizes[number]):
        if batches and len(batches[-1]) < _TOGETHER and sizes[number] <= 1.25 * sizes[batches[-1][0]]:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


_TOGETHER = 256
"""Matrices: with the quadrature's hundred nodes, some 200 KB a step."""

_FLOOR = 2.0**-22
"""Of the largest eigenvalue: what float32 may make of an eigenvalue that is zero."""


def _doubtful(norms: torch.Tensor, largest: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """Whether rounding in float32 may add more than a few thousandths: measured on matrices of low rank, each of the ``small``
    eigenvalues, those below ``_FLOOR``, adds about a quarter of the square root of float32's precision."""
    return small.clamp_min(0) * (largest * 2.0**-24).sqrt() / 4 > 2.5e-4 * norms


def _without_zeros(gram: torch.Tensor) -> torch.Tensor:
    """One Gram matrix ``[1, n, n]`` without the rows and columns that are zero (images on which a channel is silent,
    and whole dead channels): they only add eigenvalues that are zero."""
    living = gram[0].diagonal().nonzero()[:, 0]
    return gram if len(living) == gram.shape[1] else gram[:, living[:, None], living]


def _eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """Eigenvalues ``[matrices, n]`` from the lower triangles, by what converges.

    LAPACK's solver gives up on some matrices with many nearly equal eigenvalues, by an error or by NaN (both seen in
    float32 on maps of low rank). Then those are done in float64, and at last by their singular values, which are the
    same numbers.
    """
    try:
        values: torch.Tensor = torch.linalg.eigvalsh(gram)
    except RuntimeError:  # torch.linalg.LinAlgError, which its type stubs do not know
        values = torch.full(gram.shape[:-1], torch.nan, dtype=gram.dtype, device=gram.device)
    failed = ~torch.isfinite(values).all(dim=-1)
    if bool(failed.any()):
        exact = gram[failed].to(torch.float64)
        mirrored = exact.tril() + exact.tril(-1).mT
        again = _eigenvalues(exact) if gram.dtype != torch.float64 else torch.linalg.svdvals(mirrored)
        values = values.to(torch.float64)
        values[failed] = again
    return values


def nuclear_norms(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Nuclear norm of every matrix.

    Args:
        matrices: ``[matrices, rows, columns]``, any floating type.
        dtype: what products and eigenvalues are computed in.

    Returns:
        ``[matrices]``, float64, on the device of ``matrices``.
    """
    count, rows, columns = matrices.shape
    if min(rows, columns) == 0:
        return torch.zeros(count, dtype=torch.float64, device=matrices.device)
    norms = []
    for chunk in matrices.split(rows_per_chunk(rows * columns + min(rows, columns) ** 2, dtype)):
        exact = chunk.to(dtype)
        if min(rows, columns) <= _SMALL and exact.device.type == "cpu":
            norms.append(torch.linalg.svdvals(exact).sum(dim=-1, dtype=torch.float64))
        else:
            norms.append(eigenvalue_nuclear_norms(exact @ exact.mT if rows <= columns else exact.mT @ exact).norms)
    return torch.cat(norms) if norms else torch.zeros(0, dtype=torch.float64, device=matrices.device)


def rows_per_chunk(elements: int, dtype: torch.dtype) -> int:
    """How many items of ``elements`` numbers each fit the working memory of one step (64 MiB), at least one."""
    return max(1, _CHUNK_BYTES // max(1, elements * dtype.itemsize))
