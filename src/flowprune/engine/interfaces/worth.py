"""What channels and single weights are worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


class Importance(Protocol):
    """What the channels of a model are worth.

    A criterion may also carry the class attributes ``needs_data``, ``needs_labels`` and ``needs_gradients`` (all False
    where absent), so that a command line can tell what to hand to its constructor.
    """

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """Score every channel of every group.

        Args:
            model: the dense model, in whatever mode its owner left it; it must be left exactly so (mode, hooks, random
                state).
            inputs: the example inputs the groups were traced with (a tensor, a tuple of tensors or a dict of them).
            groups: the coupled groups, each a set of parameter slices that can only leave together.

        Returns:
            One float64 tensor ``[channels]`` on the CPU for each group, in the order given; higher is worth more, never
            NaN. ``inf`` says that this criterion cannot judge the channel, which is then the last to leave.
        """
        ...


class WeightScore(Protocol):
    """What the single weights of a model are worth."""

    def __call__(self, model: nn.Module, batches: Iterable[Any] | None = None) -> dict[str, Tensor]:
        """Score every weight that a mask may take.

        Args:
            model: the model; it must be left exactly as it was.
            batches: calibration batches, for criteria that look at data.

        Returns:
            Dotted name of the parameter -> a tensor of its shape, on its device, in the model's order; higher is worth more,
            never NaN.
        """
        ...
