"""Make the scores of different layers comparable, so that one ranking can run over the whole network.

A filter of a wide layer sums more weights, a map of an early layer has more positions: raw scores differ between layers
by orders of magnitude for reasons that have nothing to do with worth. Each option divides a layer's scores by one
number of that layer; two of them subtract another one first.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import torch

Normalization = Literal["none", "l1", "l2", "max", "mean", "z-score", "min-max"]

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


def normalized(scored: Sequence[Sequence[tuple[Hashable, torch.Tensor]]], how: str) -> list[list[torch.Tensor]]:
    """Scores on the scale of their own layer.

    A layer's channels may fall into several coupled groups (an option-A shortcut, the halves of a split); shift and
    divisor are the whole layer's all the same. What scores ``inf`` cannot be judged, stays ``inf``, and says nothing of
    its layer.

    Args:
        scored: for each group, the layer and the raw scores ``[channels]`` of each of its members.
        how: ``"none"`` leaves them; ``"l1"`` divides by the sum of the absolute values and ``"l2"`` by the Euclidean
            length (a typical channel of a layer of C then scores 1/C or 1/sqrt(C): channels of wide layers rank lower);
            ``"max"`` and ``"mean"`` divide by the largest and by the average score and do not depend on the width.
            ``"z-score"`` subtracts the average and divides by the (population) standard deviation, ``"min-max"`` maps
            the smallest to 0 and the largest to 1.

    Returns:
        For each group, float64 ``[channels]`` on the CPU for each of its members. A layer whose divisor is not positive
        (all scores zero; all equal, for the last two) is not divided.
    """
    on_cpu = [[(layer, scores.detach().to("cpu", torch.float64)) for layer, scores in members] for members in scored]
    layers: dict[Hashable, list[torch.Tensor]] = {}
    for layer, scores in itertools.chain.from_iterable(on_cpu):
        layers.setdefault(layer, []).append(scores)
    scales = {layer: _shift_and_divisor(torch.cat(scores), how) for layer, scores in layers.items()}
    return [[(scores - scales[layer][0]) / scales[layer][1] for layer, scores in members] for members in on_cpu]


def _shift_and_divisor(scores: torch.Tensor, how: str) -> tuple[float, float]:
    finite = scores[torch.isfinite(scores)]
    if how == "none" or finite.numel() == 0:
        return 0.0, 1.0
    shift = torch.zeros(())
    if how == "l1":
        divisor = finite.abs().sum()
    elif how == "l2":
        divisor = torch.linalg.vector_norm(finite)
    elif how == "max":
        divisor = finite.amax()
    elif how == "mean":
        divisor = finite.mean()
    elif how == "z-score":
        shift, divisor = finite.mean(), finite.std(correction=0)
    else:
        shift, divisor = finite.amin(), finite.amax() - finite.amin()
    return float(shift), float(divisor) if divisor > 0 else 1.0
