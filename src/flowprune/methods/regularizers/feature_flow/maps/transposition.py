"""Back through the maps between points: what a pull at the mapped feature is at the feature itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.methods.regularizers.feature_flow.maps.links import Map, carried_by
from flowprune.methods.regularizers.feature_flow.maps.passage import Projection
from flowprune.methods.regularizers.feature_flow.maps.window_pooling import add_pooling_pull


def add_transposed(maps: Sequence[Map], feature: Tensor, pull: Tensor, into: Tensor) -> None:
    """Add the transposed maps' image of ``pull`` to ``into``, in place.

    Args:
        maps: what ``feature`` went through, in order.
        feature: [n, C, ...]; only maps that depend on it (a max-pooling) read it.
        pull: in the shape the maps end in.
        into: in the feature's shape.
    """
    chosen = selected(maps, into)
    if chosen is not None:
        chosen.tensor.add_(chosen.within(pull))
        return
    last = maps[-1]
    if len(maps) == 1 and isinstance(last, Projection) and last.kernel is not None:
        add_pooling_pull(feature, pull[:, : feature.shape[1]], into, last.kernel)
        return
    with torch.enable_grad():
        leaf = feature.detach().requires_grad_()
        (back,) = torch.autograd.grad(carried_by(maps, leaf), leaf, pull)
    into.add_(back)


@dataclass(frozen=True)
class Selection:
    """What maps that only select positions, and then surround them with zeros, select of a tensor.

    Attributes:
        tensor: the selected positions, a view.
        left: where they begin in what the maps make, by dimension.
    """

    tensor: Tensor
    left: tuple[int, ...]

    def within(self, mapped: Tensor) -> Tensor:
        """The part of a tensor in the shape the maps end in that is no surrounding, a view."""
        for dimension, start in enumerate(self.left):
            mapped = mapped.narrow(dimension, start, self.tensor.shape[dimension])
        return mapped


def selected(maps: Sequence[Map], tensor: Tensor) -> Selection | None:
    """What ``maps`` select of ``tensor``, [n, C, ...]; everything if there are none, None if they do more than that."""
    left = [0] * tensor.dim()
    padded = False
    for each in maps:
        if not isinstance(each, Projection) or padded:
            return None
        if each.kernel is not None:
            return None
        if each.passage is None:
            tensor = tensor[(slice(None), slice(None), *(slice(None, None, stride) for stride in each.strides))]
            padded = tensor.shape[1] != each.channels
            continue
        for operation in each.passage.operations:
            if operation.name == "aten.slice" and not padded and not operation.keywords:
                start = operation.arguments[1:]
                tensor = torch.ops.aten.slice(tensor, *(int(n) if n is not None else None for n in start))
            elif operation.name == "aten.constant_pad_nd" and not operation.argument("value", 0):
                amounts = [int(amount) for amount in operation.argument("pad")]
                if min(amounts) < 0:
                    return None
                for position, amount in enumerate(amounts[::2]):
                    left[tensor.dim() - 1 - position] += amount
                padded = True
            else:
                return None
        padded = True
    return Selection(tensor, tuple(left))
