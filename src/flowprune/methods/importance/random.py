"""Random scores: the control every criterion must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from flowprune.methods.importance._scores.checked_numbers import checked_seed
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import CoupledGroup


@REGISTRY.register("random")
class Random:
    """Independent uniform numbers in [0, 1), one per channel.

    The control of Mittal et al., Recovering from Random Pruning, WACV 2018, arXiv 1801.10447.
    Needs data: no. Labels: no. Gradients: no.

    Args:
        seed: same seed, same groups: same scores, on every call. The numbers come from a generator of this criterion's
            own; torch's global random state is neither read nor moved.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = checked_seed(seed)

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        return [torch.rand(group.channels, dtype=torch.float64, generator=generator) for group in groups]
