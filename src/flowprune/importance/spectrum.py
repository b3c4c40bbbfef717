"""Nuclear norms of batches of matrices: singular values of small ones, eigenvalues of Gram matrices of large ones.

The nuclear norm of A is the sum of its singular values, which are the square roots of the eigenvalues of ``A A^T``.
Squaring costs half of the digits of the small singular values, so a rank-deficient A must never be squared on its
longer side (its null space would add noise); on the shorter side an error of 1e-8 is left in float64 where A is
singular. Small matrices on the CPU are not squared at all: there a direct decomposition takes no longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CHUNK_BYTES = 64 * 2**20

_SMALL = 32
"""Up to this shorter side LAPACK's singular values are as fast as the product and its eigenvalues (on one core)."""


_BLOCK = 160
"""Rows of a Gram matrix that are multiplied at once: large enough for the product to run at full speed, small enough to
leave most of the upper triangle out."""


def add_lower_gram(gram: torch.Tensor, rows: torch.Tensor) -> None:
    """Add ``rows @ rows^T`` to ``gram``, as far as its lower triangle needs it; what is above is left undefined.

    Args:
        gram: ``[matrices, n, n]``, of the type of ``rows``.
        rows: ``[matrices, n, m]``.
    """
    size = rows.shape[1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        gram[:, start:stop, :stop].baddbmm_(rows[:, start:stop], rows[:, :stop].mT)


def eigenvalue_nuclear_norms(gram: torch.Tensor) -> torch.Tensor:
    """Sum of the square roots of the eigenvalues of each Gram matrix.

    Args:
        gram: ``[matrices, n, n]``, symmetric and positive semi-definite up to rounding; only the lower triangle is read.

    Returns:
        ``[matrices]``, float64. Negative eigenvalues are rounding errors and count as zero.
    """
    if len(gram) == 1:
        gram = _without_zeros(gram)
    norms: torch.Tensor = _eigenvalues(gram).clamp_min(0).sqrt().sum(dim=-1, dtype=torch.float64)
    return norms


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
            norms.append(eigenvalue_nuclear_norms(exact @ exact.mT if rows <= columns else exact.mT @ exact))
    return torch.cat(norms) if norms else torch.zeros(0, dtype=torch.float64, device=matrices.device)


def rows_per_chunk(elements: int, dtype: torch.dtype) -> int:
    """How many items of ``elements`` numbers each fit the working memory of one step (64 MiB), at least one."""
    return max(1, _CHUNK_BYTES // max(1, elements * dtype.itemsize))


@contextmanager
def full_precision() -> Iterator[None]:
    """TensorFloat-32 off inside: its 10-bit mantissa would decide between neighbours in a ranking."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
