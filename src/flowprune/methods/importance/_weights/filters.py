"""The filters a group's channels are made by, read from the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowprune.engine.measuring import is_finite
from flowprune.errors import ModelError

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup, Member


def finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """``tensor``, detached.

    Raises:
        ModelError: it holds a NaN or an infinity; a ranking by such numbers would be noise.
    """
    tensor = tensor.detach()
    if not is_finite(tensor):
        raise ModelError(
            f"parameter {name!r} holds NaN or infinite values, so its channels cannot be ranked; "
            "load weights from before the training diverged"
        )
    return tensor


def filter_rows(tensor: torch.Tensor, member: Member) -> torch.Tensor:
    """The weights that make each channel.

    Args:
        tensor: the member's parameter.
        member: says along which dimension, and where in it, each channel sits (``indices`` is ``[channels, k]``).

    Returns:
        ``[channels, weights per channel]``: everything in the member's slices, k slices side by side where k > 1.
    """
    rows = tensor.movedim(member.dimension, 0).flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
    if np.array_equal(member.indices, np.arange(len(rows))[:, None]):
        return rows  # all of them in order: a copy would only cost memory
    indices = torch.as_tensor(member.indices, dtype=torch.int64, device=tensor.device)
    return rows[indices].flatten(1)


def making_weights(group: CoupledGroup, tensors: dict[str, torch.Tensor]) -> list[Member]:
    """The members that make the group's channels: convolution and linear weights (role "output", at least two
    dimensions), their biases left out. A weight comes once for each of its members."""
    return [
        member
        for member in group.members
        if member.role == "output" and member.name in tensors and tensors[member.name].ndim >= 2
    ]


def group_filters(group: CoupledGroup, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and ``[channels, weights per channel]`` of every weight that makes the group's channels (see
    ``making_weights``)."""
    for member in making_weights(group, tensors):
        yield member.name, filter_rows(finite(tensors[member.name], member.name), member)


def filter_norms(
    groups: Sequence[CoupledGroup], tensors: dict[str, torch.Tensor], order: int
) -> list[list[tuple[str, torch.Tensor]]]:
    """For each group, the name of every weight that makes its channels, and the length of each channel's filter there.

    Args:
        groups: the coupled groups.
        tensors: the model's, by name.
        order: of the norm, 1 or 2.

    Returns:
        float64 ``[channels]`` for each weight; of a channel that sits in several rows, the length of all of them together.

    Raises:
        ModelError: a weight holds NaN or infinity.
    """
    known: dict[tuple[str, int], torch.Tensor] = {}  # a grouped convolution is in as many groups as it has

    def norms(member: Member) -> torch.Tensor:
        place = (member.name, member.dimension)
        if place not in known:
            weight = finite(tensors[member.name], member.name)
            known[place] = row_norms(weight.movedim(member.dimension, 0).flatten(1), order)
        rows = known[place][torch.as_tensor(member.indices, dtype=torch.int64, device=known[place].device)]
        return rows.squeeze(1) if rows.shape[1] == 1 else torch.linalg.vector_norm(rows, order, dim=1)

    return [[(member.name, norms(member)) for member in making_weights(group, tensors)] for group in groups]


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
