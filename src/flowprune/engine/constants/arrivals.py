"""What of every channel a layer reads is the same number for all images, at all positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.engine.constants.knowledge import Knowledge
from flowprune.engine.tracing import Operation, Reference
from flowprune.engine.tracing.operator_kinds import is_convolution


@dataclass(frozen=True)
class Arrival:
    """The channels that one call of a layer reads.

    Attributes:
        known: [channels] bool: whether all of a channel is known.
        even: [channels] bool: whether it is known and everywhere the same number.
        values: [channels] float64: that number.
        weight: what the layer multiplies them by, where all of that is known.
    """

    known: Tensor
    even: Tensor
    values: Tensor
    weight: Tensor | None


def read_by(operation: Operation) -> tuple[Reference, Reference]:
    """The channels a layer reads and the weight it reads them by, among its arguments."""
    if is_convolution(operation):
        return operation.argument("input"), operation.argument("weight")
    return operation.argument("mat1" if operation.name == "aten.addmm" else "self"), operation.argument("mat2")


def arrival(knowledge: Knowledge | None, weight: Knowledge | None, channels: int) -> Arrival:
    """Sum up what is known of ``[images, channels, ...]`` channel by channel."""
    matrix = weight.values if weight is not None and weight.is_whole() else None
    if knowledge is None:
        nowhere = torch.zeros(channels, dtype=torch.bool)
        return Arrival(nowhere, nowhere, torch.zeros(channels, dtype=torch.float64), matrix)
    values = knowledge.values.transpose(0, 1).flatten(1)
    known = knowledge.mask().transpose(0, 1).flatten(1).all(dim=1)
    first = values[:, 0] if values.shape[1] else torch.zeros(channels, dtype=values.dtype, device=values.device)
    even = known & (values == first[:, None]).all(dim=1)
    return Arrival(known.cpu(), even.cpu(), first.double().cpu(), matrix)
