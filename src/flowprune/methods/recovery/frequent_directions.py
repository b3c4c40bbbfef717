"""Many rows summarised by few that have nearly the same second moments."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError

Tail = Literal["kept", "dropped"]


def frequent_directions(rows: Tensor, count: int, *, tail: Tail = "kept") -> Tensor:
    """``count`` rows B with ``B^T B`` near ``A^T A``, by one pass over the rows of A.

    Liberty, Simple and Deterministic Matrix Sketching, KDD 2013, arXiv 1206.0594, algorithm 1: rows are taken in until B is
    full; then, with ``B = U S V^T`` and theta the square of its singular value number ``count // 2`` (from 0), it becomes
    ``sqrt(max(S^2 - theta, 0)) V^T``, and the rows from there on are free again. For every unit vector x::

        0 <= |A x|^2 - |B x|^2 <= 2 |A|_F^2 / count

    The last time only as many rows are freed as are still to come, which shrinks less and leaves no row empty. FilterSketch
    (arXiv 2001.08514) instead leaves out the rows that come last, if fewer than ``count // 2`` are left when B is full; that is
    ``tail="dropped"``, compared with the authors' code (fixtures).

    Args:
        rows: ``[n, d]``; the sketch is made in float64.
        count: from 1 to n.
        tail: what becomes of the last rows.

    Returns:
        ``[count, d]`` in float64. Rows are determined up to their sign.

    Raises:
        FlowpruneError: ``rows`` is no matrix, or has fewer rows.

    Example:
        >>> frequent_directions(torch.eye(3), 3).diagonal()
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    if rows.dim() != 2 or not 1 <= count <= len(rows):
        raise FlowpruneError(
            f"{count} rows cannot summarise a tensor of {list(rows.shape)}; ask for 1 to as many as it has"
        )
    sketch = rows[:count].detach().double().clone()
    half, following = count // 2, count
    while following < len(rows):
        left = len(rows) - following
        if tail == "dropped" and left < half:
            break
        first_free = half if tail == "dropped" else max(half, count - left)
        _, singular, directions = torch.linalg.svd(sketch, full_matrices=False)
        squares = (singular.square() - _at(singular, first_free).square()).clamp(min=0)
        sketch = torch.zeros_like(sketch)
        sketch[: len(squares)] = squares.sqrt()[:, None] * directions
        taken = min(count - first_free, left)
        sketch[first_free : first_free + taken] = rows[following : following + taken].double()
        following += taken
    return sketch


def _at(singular: Tensor, number: int) -> Tensor:
    """A singular value; 0 where a matrix has not so many."""
    return singular[number] if number < len(singular) else singular.new_zeros(())
