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


def eigenvalue_nuclear_norms(gram: torch.Tensor) -> torch.Tensor:
    """Sum of the square roots of the eigenvalues of each Gram matrix.

    Args:
        gram: ``[matrices, n, n]``, symmetric and positive semi-definite up to rounding.

    Returns:
        ``[matrices]``, float64. Negative eigenvalues are rounding errors and count as zero.
    """
    norms: torch.Tensor = _eigenvalues(gram).clamp_min(0).sqrt().sum(dim=-1, dtype=torch.float64)
    return norms


def _eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """Eigenvalues ``[matrices, n]``, by what converges.

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
        again = _eigenvalues(exact) if gram.dtype != torch.float64 else torch.linalg.svdvals(exact)
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
