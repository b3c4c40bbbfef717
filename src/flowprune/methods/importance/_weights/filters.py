"""Weights as rows: one of each filter of a layer, or one of each channel of a group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from flowprune.engine.measuring import finite
from flowprune.engine.tracing import tensors_of

if TYPE_CHECKING:
    from flowprune.engine.coupling import Member


def finite_weights(model: nn.Module, members: Iterable[Member]) -> dict[str, torch.Tensor]:
    """The tensors that ``members`` are slices of, detached, by name.

    Raises:
        ModelError: one holds a NaN or an infinity; a ranking by such numbers would be noise.
    """
    tensors = tensors_of(model)
    return {name: finite(tensors[name], name) for name in dict.fromkeys(member.name for member in members)}


def rows_of(tensor: torch.Tensor, dimension: int) -> torch.Tensor:
    """``[filters, weights per filter]``: a row for every place along ``dimension``."""
    return tensor.movedim(dimension, 0).flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)


def channel_rows(tensor: torch.Tensor, member: Member) -> torch.Tensor:
    """The weights that make each channel.

    Args:
        tensor: the member's parameter.
        member: says along which dimension, and where in it, each channel sits (``indices`` is ``[channels, k]``).

    Returns:
        ``[channels, weights per channel]``: everything in the member's slices, k slices side by side where k > 1.
    """
    rows = rows_of(tensor, member.dimension)
    if np.array_equal(member.indices, np.arange(len(rows))[:, None]):
        return rows  # all of them in order: a copy would only cost memory
    indices = torch.as_tensor(member.indices, dtype=torch.int64, device=tensor.device)
    return rows[indices].flatten(1)


_RUN = 64


def row_norms(rows: torch.Tensor, order: int) -> torch.Tensor:
    """Length of every row of ``[rows, n]`` in the norm of ``order`` (1 or 2), in float64.

    Runs of 64 numbers are summed in the weights' own type (which loses 1e-8 at most), the runs' results in float64: converting
    every weight would take a hundred times as long on wide layers.
    """
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    width = rows.shape[1] // _RUN * _RUN
    runs = torch.linalg.vector_norm(rows[:, :width].unflatten(1, (-1, _RUN)), order, dim=2)
    parts = torch.cat([runs.double(), rows[:, width:].double()], dim=1)
    lengths: torch.Tensor = torch.linalg.vector_norm(parts, order, dim=1)
    return lengths
