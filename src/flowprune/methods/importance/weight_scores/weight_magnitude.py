"""Magnitude of a single weight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from flowprune.engine.measuring.single_weights import single_weights
from flowprune.methods.importance.weight_scores.registry import REGISTRY


@REGISTRY.register("magnitude")
class WeightMagnitude:
    """Absolute value of a weight, ``s = |w|``.

    Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, arXiv 1506.02626, section 3.
    Needs data: no. Labels: no. Gradients: no.

    Raises (when called):
        ModelError: as ``single_weights``: a weight is NaN, infinite, or computed from other parameters.

    Example:
        >>> scores = WeightMagnitude()(nn.Linear(3, 2))
        >>> scores["weight"].shape
        torch.Size([2, 3])
    """

    needs_data: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batches: Iterable[Any] | None = None) -> dict[str, torch.Tensor]:
        """Name of each weight -> a tensor of its shape and type; ``batches`` are not read."""
        return {name: weight.abs() for name, weight in single_weights(model).items()}
