"""PWS: shared values by chance, right on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError
from flowprune.methods.quantizers._shared_values.shared_values import (
    SIZES,
    SharedValues,
    checked_values,
    pooled,
    shared,
)
from flowprune.methods.quantizers.registry import REGISTRY


@REGISTRY.register("pws")
class ProbabilisticSharing:
    """Every weight becomes one of the two quantiles around it, by a chance that makes it right on average (PWS).

    Marinò, Petrini, Malchiodi & Frasca, arXiv 2108.12704, section 3: edges ``q_i = quantile(w, i / (k - 1))``; a weight in
    ``[q_i, q_{i+1})`` becomes ``q_{i+1}`` with probability ``(w - q_i) / (q_{i+1} - q_i)``, else ``q_i``. Compared with the
    authors' code (fixtures).
    """

    size_option: ClassVar[str] = "values"
    sizes: ClassVar[tuple[int, ...]] = SIZES

    def fit(
        self,
        weights: Mapping[str, Tensor],
        *,
        values: int,
        seed: int = 0,
        uniform: Tensor | None = None,
        keep_zeros: bool = True,
    ) -> SharedValues:
        """Codes and codebook.

        Args:
            weights: by parameter name, any shapes.
            values: k, how many shared values; fewer come out where quantiles are equal.
            seed: of the random numbers.
            uniform: ``[n]``, one number in [0, 1) a weight that gets a value, layer after layer, row by row; drawn if None.
            keep_zeros: whether weights that are zero (masked) stay zero, outside the codebook.

        Raises:
            FlowpruneError: ``values`` is below 2, ``uniform`` does not fit, or there is no finite weight to quantize.
        """
        line, held = pooled(weights, keep_zeros)
        places = torch.linspace(0, 1, checked_values(values, 2), dtype=torch.float64)
        codebook = torch.unique(_quantiles(line, places))
        if uniform is None:
            uniform = torch.rand(len(line), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        if uniform.shape != line.shape:
            raise FlowpruneError(f"uniform holds {list(uniform.shape)} numbers, but {len(line)} weights get a value")
        if len(codebook) == 1:
            return shared(weights, held, codebook, torch.zeros(len(line), dtype=torch.int64))
        below = (torch.searchsorted(codebook, line, right=True) - 1).clamp(0, len(codebook) - 2)
        chance = (line - codebook[below]) / (codebook[below + 1] - codebook[below])
        return shared(weights, held, codebook, below + (uniform.double() <= chance))


def _quantiles(line: Tensor, places: Tensor) -> Tensor:
    """Linearly interpolated quantiles (torch.quantile refuses more than 16 million numbers)."""
    ordered = torch.sort(line).values
    position = places * (len(ordered) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], position - low)
