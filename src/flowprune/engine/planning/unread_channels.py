"""Channels that nothing reads: wherever a layer would weigh one, all its weights are zero, as a mask may have left them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.coupling import Coupling
from flowprune.engine.tracing import tensors_of


def unread_channels(model: nn.Module, coupling: Coupling) -> list[NDArray[np.bool_]]:
    """For each group [channels]: whether all weights are zero that read the channel, of one layer at least.

    That no operator besides the layers makes others of it is for ``engine.constants`` to prove.

    Args:
        model: the dense model.
        coupling: its groups.
    """
    tensors = tensors_of(model)
    known: dict[tuple[str, int], NDArray[np.bool_]] = {}
    found: list[NDArray[np.bool_]] = []
    for group in coupling.groups:
        readers = [member for member in group.members if member.role == "input"]
        # What a parameter does that no layer holds is not known from its place: it may read, as the matrix of an einsum does.
        unread = np.full(group.channels, bool(readers) and all(member.role != "other" for member in group.members))
        for reader in readers:
            place = (reader.name, reader.dimension)
            if place not in known:
                weight = tensors[reader.name].detach().movedim(reader.dimension, 0)
                known[place] = np.asarray((weight.flatten(1) == 0).all(dim=1).cpu().numpy(), dtype=bool)
            unread &= known[place][reader.indices].all(axis=1)
        found.append(unread)
    return found
