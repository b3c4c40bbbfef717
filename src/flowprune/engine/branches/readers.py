"""The first convolutions of branches, and which channels of their stream they read for nothing.

A channel of a stream may be zero where a branch reads it, because nothing has been put there yet: a shortcut has padded it, or
every filter that makes it so far is dead. Or the convolution may have no weight for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.branches.ends import BranchEnd
from flowprune.engine.constants import ZERO, known_constants
from flowprune.engine.coupling import Analysis
from flowprune.engine.surgery.branch_modules import can_read
from flowprune.engine.tracing import Graph
from flowprune.engine.tracing.operator_kinds import is_convolution

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reader:
    """A branch's first convolution.

    Attributes:
        module: its dotted path.
        operation: index of its convolution.
        channels: how many it reads.
        positions: of one channel of what it reads.
        rank: number of dimensions of that.
    """

    module: str
    operation: int
    channels: int
    positions: int
    rank: int


def find_readers(model: nn.Module, graph: Graph, ends: Sequence[BranchEnd], asked: Collection[str]) -> list[Reader]:
    """The convolutions that branches begin with and that could read less.

    Args:
        model: the traced model.
        graph: its evaluation pass.
        ends: its branch ends.
        asked: tensors that are to stay as they are.
    """
    producers = graph.producers()
    found: dict[str, Reader] = {}
    for end in ends:
        for index in sorted(end.alone):
            operation = graph.operations[index]
            if not is_convolution(operation):
                continue
            read = operation.argument("input").value
            maker = producers.get(read)
            within = maker is not None and maker.index in end.alone
            weight = f"{operation.module}.weight"
            if within or graph.parameters.get(operation.argument("weight").value) != weight or weight in asked:
                continue
            calls = [call for call in graph.calls if call.path == operation.module]
            if len(calls) == 1 and calls[0].inputs == (read,) and can_read(model.get_submodule(operation.module)):
                shape = graph.values[read].shape
                positions = int(np.prod(shape[2:], dtype=np.int64))
                found[operation.module] = Reader(operation.module, index, shape[1], positions, len(shape))
    return list(found.values())


def unread(
    model: nn.Module, inputs: Any, evaluation: Analysis, readers: Sequence[Reader], dead: Mapping[str, Mask]
) -> dict[str, Mask]:
    """Reader -> [channels] which of its channels are always zero, or have no weight; dead filters count as constants.

    Args:
        model, inputs: the model and example inputs.
        evaluation: its evaluation pass, with labels.
        readers: as ``find_readers`` returns them.
        dead: layer -> which of its filters are dead.
    """
    if not readers:
        return {}
    constants = known_constants(model, inputs, evaluation, dead)
    found: dict[str, Mask] = {}
    for reader in readers:
        arrival = constants.arrivals[reader.operation]
        silent = arrival.even & (arrival.values.abs() <= ZERO)
        if arrival.weight is not None:
            silent = silent | (arrival.weight == 0).transpose(0, 1).flatten(1).all(dim=1).cpu()
        found[reader.module] = np.asarray(silent.numpy(), dtype=bool)
    return {path: mask for path, mask in found.items() if mask.any()}
