"""Make the scores of different layers comparable, so that one ranking can run over the whole network.

A filter of a wide layer sums more weights, a map of an early layer has more positions: raw scores differ between layers
by orders of magnitude for reasons that have nothing to do with worth. Each option divides a layer's scores by one
number of that layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import torch

from flowprune.errors import UnknownNameError

Normalization = Literal["none", "l1", "l2", "max", "mean"]


def checked_normalization(name: str) -> str:
    """``name`` if it is a known normalisation; otherwise ``UnknownNameError`` with the nearest one."""
    if name not in get_args(Normalization):
        raise UnknownNameError("normalization", name, get_args(Normalization))
    return name


def normalized(scored: Sequence[Sequence[tuple[Hashable, torch.Tensor]]], how: str) -> list[list[torch.Tensor]]:
    """Scores (non-negative) divided by their layer's sum, Euclidean length, maximum or mean.

    A layer's channels may fall into several coupled groups (an option-A shortcut, the halves of a split); the divisor is the whole
    layer's all the same.

    Args:
        scored: for each group, the layer and the raw scores ``[channels]`` of each of its members.
        how: ``"none"`` leaves them; ``"l1"`` divides by the sum and ``"l2"`` by the Euclidean length (a typical channel
            of a layer of C then scores 1/C or 1/sqrt(C): channels of wide layers rank lower); ``"max"`` and ``"mean"``
            do not depend on the width.

    Returns:
        For each group, float64 ``[channels]`` on the CPU for each of its members; a layer whose scores are all zero stays zero.
    """
    on_cpu = [[(layer, scores.detach().to("cpu", torch.float64)) for layer, scores in members] for members in scored]
    layers: dict[Hashable, list[torch.Tensor]] = {}
    for layer, scores in itertools.chain.from_iterable(on_cpu):
        layers.setdefault(layer, []).append(scores)
    divisors = {layer: _divisor(torch.cat(scores), how) for layer, scores in layers.items()}
    return [[scores / divisors[layer] for layer, scores in members] for members in on_cpu]


def _divisor(scores: torch.Tensor, how: str) -> float:
    finite = scores[torch.isfinite(scores)]  # what cannot be judged scores inf and says nothing of its layer
    if how == "none" or finite.numel() == 0:
        return 1.0
    if how == "l1":
        divisor = finite.sum()
    elif how == "l2":
        divisor = torch.linalg.vector_norm(finite)
    elif how == "max":
        divisor = finite.amax()
    else:
        divisor = finite.mean()
    return float(divisor) if divisor > 0 else 1.0
