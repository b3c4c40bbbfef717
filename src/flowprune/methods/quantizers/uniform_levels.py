"""UQ: shared values at equal distances."""

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
    nearest,
    pooled,
    shared,
)
from flowprune.methods.quantizers.registry import REGISTRY

FIRST, STEP, LAST = 1e-4, 5e-4, 1.0  # the authors' sweep of distances
SOME = 4096


@REGISTRY.register("uq")
class UniformLevels:
    """Shared values at equal distances, the smallest distance that leaves few enough of them (UQ).

    Marinò, Petrini, Malchiodi & Frasca, arXiv 2108.12704, section 3: ``q(w) = d round((w + b) / d) - b``, with d swept over
    0.0001, 0.0006, 0.0011, ... until at most k levels are in use. Compared with the authors' code (fixtures). Where even d = 1
    leaves more, theirs goes on with more; here one line says so.
    """

    size_option: ClassVar[str] = "values"
    sizes: ClassVar[tuple[int, ...]] = SIZES

    def fit(
        self, weights: Mapping[str, Tensor], *, values: int, offset: float = 0.0, keep_zeros: bool = True
    ) -> SharedValues:
        """Codes and codebook.

        Args:
            weights: by parameter name, any shapes.
            values: k, the most levels there may be.
            offset: b, what the levels are shifted by.
            keep_zeros: whether weights that are zero (masked) stay zero, outside the codebook. The level 0 is another thing:
                weights near zero, which may move in retraining.

        Raises:
            FlowpruneError: ``values`` is below 1, the weights are too large for the sweep, or there is none to quantize.
        """
        line, held = pooled(weights, keep_zeros)
        checked_values(values, 1)
        levels = _levels(torch.sort(line).values + offset, values) - offset
        return shared(weights, held, levels, nearest(line, levels))


def _levels(ordered: Tensor, most: int) -> Tensor:
    """The levels in use for the first distance of the sweep with at most so many."""
    # A part of the weights uses at most as many levels as all: most distances are ruled out by a few weights.
    some = ordered[torch.linspace(0, len(ordered) - 1, min(SOME, len(ordered)), dtype=torch.float64).long()]
    distances = [FIRST + number * STEP for number in range(int((LAST - FIRST) / STEP) + 1)]
    for distance in [*distances, LAST]:
        if len(torch.unique_consecutive(torch.round(some / distance))) <= most:
            used: Tensor = torch.unique_consecutive(torch.round(ordered / distance))
            if len(used) <= most:
                return distance * used + 0.0  # no minus zero
    raise FlowpruneError(
        f"weights from {float(ordered[0]):.3g} to {float(ordered[-1]):.3g} take more than {most} levels "
        f"even {LAST:g} apart; ask for more values"
    )
