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
    """Independent uniform numbers in [0, 1), one a weight or one a kernel.

    Needs data: no. Labels: no. Gradients: no.

    Args:
        seed: same seed, same model: same scores, on every call and on any device. Torch's global random state is neither read
            nor moved.
        kernels: the weights of a convolution between one filter and one channel share a number: the control for what keeps kernels
            whole.

    Raises (when called):
        ModelError: as ``single_weights``.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0, kernels: bool = False) -> None:
        self.seed, self.kernels = checked_seed(seed), kernels

    def __call__(self, model: nn.Module, batches: Iterable[Any] | None = None) -> dict[str, torch.Tensor]:
        """Name of each weight -> float32 numbers of its shape, on its device; ``batches`` are not read."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        found = {}
        for name, weight in single_weights(model).items():
            drawn = torch.rand(weight.shape[:2] if self.kernels else weight.shape, generator=generator)
            alike = drawn.reshape(*drawn.shape, *(1 for _ in range(weight.dim() - drawn.dim())))
            found[name] = alike.expand(weight.shape).contiguous().to(weight.device)
        return found
