"""Nuclear norms of batches of matrices: singular values of small ones, eigenvalues of Gram matrices of large ones.

The nuclear norm of A is the sum of its singular values, which are the square roots of the eigenvalues of ``A A^T``.
Squaring costs half of the digits of the small singular values, so a rank-deficient A must never be squared on its
longer side (its null space would add noise); on the shorter side an error of 1e-8 is left in float64 where A is
singular. Small matrices on the CPU are not squared at all: there a direct decomposition takes no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from flowprune.importance.root_trace import root_traces
from flowprune.importance.threads import in_threads
from flowprune.importance.tridiagonal import one_thread_each, tridiagonal

_CHUNK_BYTES = 64 * 2**20

_SMALL = 32
"""Up to this shorter side LAPACK's singular values are as fast as the product and its eigenvalues (on one core)."""


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


def nuclear_norms_in_threads(gram_of: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
    """The same for large Gram matrices on the CPU, without their eigenvalues, which take twice as long: each is reduced to
    tridiagonal form in a thread, and then the sums of all are found together.

    Args:
        gram_of: number of a matrix -> ``[n, n]``, as above, which may be overwritten; called in threads, and again for a matrix
            that the reduction fails at.
        count: how many matrices there are.

    Returns:
        ``[count]``, float64.
    """

    def reduced(number: int) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
        found = tridiagonal(_without_zeros(gram_of(number)[None])[0].contiguous())
        return eigenvalue_nuclear_norms(gram_of(number)[None])[0] if found is None else found

    with one_thread_each():
        forms = in_threads(reduced, range(count))
    norms = torch.zeros(count, dtype=torch.float64)
    tridiagonals = {number: form for number, form in enumerate(forms) if isinstance(form, tuple)}
    for number, form in enumerate(forms):
        if isinstance(form, torch.Tensor):
            norms[number] = form
    if tridiagonals:  # a matrix without its zeros is smaller; zeros behind it add nothing
        diagonals, beside = (
            pad_sequence(list(parts), batch_first=True) for parts in zip(*tridiagonals.values(), strict=True)
        )
        norms[list(tridiagonals)] = root_traces(diagonals, beside)
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
    """TensorFloat-32 and bfloat16 in the place of float32 off inside: their short mantissas would decide between neighbours in a
    ranking."""
    before = torch.get_float32_matmul_precision()
    onednn: Any = torch.backends.mkldnn  # its attributes are made at run time
    reduced = onednn.conv.fp32_precision
    torch.set_float32_matmul_precision("highest")
    if reduced not in ("none", "ieee"):
        onednn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if reduced not in ("none", "ieee"):
            onednn.conv.fp32_precision = reduced
