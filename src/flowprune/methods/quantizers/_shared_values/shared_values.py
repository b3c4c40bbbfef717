"""Weights of several layers as numbers of one list of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError

ZERO = -1
"""The code of a weight that is zero for good."""

SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""How many values a budget of bytes chooses from."""


@dataclass(frozen=True)
class SharedValues:
    """One codebook over layers.

    Attributes:
        codebook: ``[values]``, float64 on the CPU, ascending where a quantizer made it.
        codes: parameter name -> int64 of the weight's shape, where the weight lies; -1 for what is zero for good.
        kinds: parameter name -> the weight's number type.
    """

    codebook: Tensor
    codes: Mapping[str, Tensor]
    kinds: Mapping[str, torch.dtype]

    def dequantize(self) -> dict[str, Tensor]:
        """The weights by parameter name: values of the codebook, in the weights' own number types, and zeros."""
        extended = torch.cat([self.codebook, self.codebook.new_zeros(1)])  # -1 reads the last
        return {name: extended.to(codes.device, self.kinds[name])[codes] for name, codes in self.codes.items()}


def pooled(weights: Mapping[str, Tensor], keep_zeros: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """All weights that are to get a value, in one line.

    Args:
        weights: by parameter name, any shapes.
        keep_zeros: whether weights that are zero stay zero and get no value.

    Returns:
        float64 ``[n]`` on the CPU, layer after layer, row by row; and which weights of each layer they are, bool of its shape.

    Raises:
        FlowpruneError: no weight is left, one is not finite, or a tensor holds no floating-point numbers.
    """
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise FlowpruneError(f"{name} holds {weight.dtype}, only floating-point weights can share values")
        if not bool(torch.isfinite(weight).all()):
            raise FlowpruneError(f"{name} holds a weight that is NaN or infinite; it cannot get a shared value")
    held = {
        name: weight.detach() != 0 if keep_zeros else torch.ones_like(weight, dtype=torch.bool)
        for name, weight in weights.items()
    }
    parts = [weight.detach()[held[name]].double().cpu() for name, weight in weights.items()]
    line = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
    if not len(line):
        raise FlowpruneError("there is no weight to share values: all are zero, or none was handed in")
    return line, held


def shared(weights: Mapping[str, Tensor], held: Mapping[str, Tensor], codebook: Tensor, codes: Tensor) -> SharedValues:
    """The codes of a line of weights put back to where ``pooled`` took them from."""
    placed, start = {}, 0
    for name, mask in held.items():
        count = int(mask.sum())
        placed[name] = torch.full(mask.shape, ZERO, dtype=torch.int64, device=mask.device)
        placed[name][mask] = codes[start : start + count].to(mask.device)
        start += count
    return SharedValues(codebook, placed, {name: weight.dtype for name, weight in weights.items()})


def nearest(line: Tensor, codebook: Tensor) -> Tensor:
    """The number of the nearest value of an ascending codebook for every weight; the lower one where two are as near."""
    above = torch.searchsorted(codebook, line).clamp(max=len(codebook) - 1)
    below = (above - 1).clamp(min=0)
    return torch.where(line - codebook[below] <= codebook[above] - line, below, above)


def checked_values(values: int, least: int) -> int:
    """How many values were asked for.

    Raises:
        FlowpruneError: fewer than ``least``.
    """
    if values < least:
        raise FlowpruneError(
            f"values={values}: at least {least} shared {'value is' if least == 1 else 'values are'} needed"
        )
    return values
