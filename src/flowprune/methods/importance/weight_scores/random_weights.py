"""Random scores of single weights: the control every other one must beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.single_weights import single_weights
from flowprune.methods.importance._scores.checked_numbers import checked_seed
from flowprune.methods.importance.weight_scores.registry import REGISTRY


@REGISTRY.register("random")
class RandomWeights:
    """Independent uniform numbers in [0, 1), one a weight.

    Needs data: no. Labels: no. Gradients: no.

    Args:
        seed: same seed, same model: same scores, on every call and on any device. Torch's global random state is neither read
            nor moved.

    Raises (when called):
        ModelError: as ``single_weights``.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = checked_seed(seed)

    def __call__(self, model: nn.Module, batches: Iterable[Any] | None = None) -> dict[str, torch.Tensor]:
        """Name of each weight -> float32 numbers of its shape, on its device; ``batches`` are not read."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device)
            for name, weight in single_weights(model).items()
        }
