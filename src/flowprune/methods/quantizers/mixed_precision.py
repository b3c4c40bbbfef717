"""Weights whose filters have numbers of bits of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError
from flowprune.methods.quantizers._channelwise.min_max import checked_bits, on_grid
from flowprune.methods.quantizers.registry import REGISTRY


@dataclass(frozen=True)
class ChannelGrids:
    """Weights on grids, filter by filter.

    Attributes:
        weights: parameter name -> the values, in the weight's own number type.
        bits: parameter name -> the number of bits of every filter.
    """

    weights: Mapping[str, Tensor]
    bits: Mapping[str, list[int]]

    def dequantize(self) -> dict[str, Tensor]:
        """The weights by parameter name."""
        return dict(self.weights)

    @property
    def stored_with(self) -> dict[str, dict[str, Any]]:
        """Parameter name -> what a codec of grids must be told to store it: the bits of its filters."""
        return {name: {"bits": list(bits)} for name, bits in self.bits.items()}


@REGISTRY.register("mixed_precision")
class MixedPrecision:
    """Every filter on a grid of its own, of 0 (it is zero), 2 to 8 bits.

    Joint pruning and channel-wise mixed-precision quantization, arXiv 2407.01054: ``s_f = 2 max|W_f| / (2^p - 1)``,
    ``W_f <- s_f min(round(W_f / s_f), 2^(p-1) - 1)``. Compared with the authors' code (fixtures). How many bits each filter gets
    is decided elsewhere: the regularizer of the same name searches them. Store it by the codec ``channel_bits``.
    """

    size_option: ClassVar[str] = "bits"
    sizes: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 7, 8)
    on_grids: ClassVar[bool] = True
    """A filter's values are a grid's and not free: what is trained on are the numbers behind them, see ``GridTraining``."""

    def fit(self, weights: Mapping[str, Tensor], *, bits: int | Mapping[str, Sequence[int]]) -> ChannelGrids:
        """The weights on their grids.

        Args:
            weights: by parameter name, ``[filters, ...]``.
            bits: of all filters, or of every filter by parameter name.

        Raises:
            FlowpruneError: a number is none of bits, there are not as many as filters, or a weight is not finite.

        Example:
            >>> MixedPrecision().fit({"fc": torch.tensor([[1.0, -0.2], [3.0, 3.0]])}, bits=2).dequantize()["fc"]
            tensor([[0.6667, -0.0000],
                    [2.0000, 2.0000]])
        """
        values: dict[str, Tensor] = {}
        chosen: dict[str, list[int]] = {}
        for name, weight in weights.items():
            if not weight.is_floating_point() or not bool(torch.isfinite(weight).all()):
                raise FlowpruneError(f"{name} holds a weight that is no finite number; it cannot be put on a grid")
            own = [bits] * len(weight) if isinstance(bits, int) else list(bits.get(name, ()))
            if len(own) != len(weight):
                raise FlowpruneError(f"bits= has {len(own)} numbers for {name}, which has {len(weight)} filters")
            chosen[name] = [checked_bits(one, f"bits of {name}") for one in own]
            values[name] = on_grid(weight.detach(), torch.tensor(chosen[name], device=weight.device))
        return ChannelGrids(values, chosen)
