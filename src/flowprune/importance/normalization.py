"""Make the scores of different layers comparable, so that one ranking can run over the whole network.

A filter of a wide layer sums more weights, a map of an early layer has more positions: raw scores differ between layers
by orders of magnitude for reasons that have nothing to do with worth. Each option divides a layer's scores by one
number of that layer.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from flowprune.errors import UnknownNameError

Normalization = Literal["none", "l1", "l2", "max", "mean"]


def checked_normalization(name: str) -> str:
    """``name`` if it is a known normalisation; otherwise ``UnknownNameError`` with the nearest one."""
    if name not in get_args(Normalization):
        raise UnknownNameError("normalization", name, get_args(Normalization))
    return name


def normalized(scores: torch.Tensor, how: str) -> torch.Tensor:
    """One layer's scores ``[channels]`` (non-negative) divided by their sum, Euclidean length, maximum or mean.

    Args:
        scores: the layer's raw scores.
        how: ``"none"`` leaves them; ``"l1"`` divides by the sum and ``"l2"`` by the Euclidean length (a typical channel
            of a layer of C then scores 1/C or 1/sqrt(C): channels of wide layers rank lower); ``"max"`` and ``"mean"``
            do not depend on the width.

    Returns:
        float64 ``[channels]`` on the CPU; a layer whose scores are all zero stays zero.
    """
    scores = scores.detach().to("cpu", torch.float64)
    if how == "none" or scores.numel() == 0:
        return scores
    if how == "l1":
        divisor = scores.sum()
    elif how == "l2":
        divisor = torch.linalg.vector_norm(scores)
    elif how == "max":
        divisor = scores.amax()
    else:
        divisor = scores.mean()
    return scores / divisor if divisor > 0 else scores
