"""The two terms of the penalty, summed over the recorded forwards as if they had been one batch.

Sums of absolute values go the short way of ``absolute_penalty``; everything else is left to autograd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow.maps.links import Link, links_of, steps_of
from flowprune.methods.regularizers.feature_flow.maps.magnitude import Reduction, accumulated, angle, magnitude
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Step, Trajectory
from flowprune.methods.regularizers.feature_flow.penalty.absolute_penalty import absolute_penalty
from flowprune.methods.regularizers.feature_flow.penalty.nothing_to_penalize import nothing_to_compare
from flowprune.methods.regularizers.feature_flow.points.recording import Forward

CurvatureForm = Literal["second-difference", "angle"]
Norm = Literal[1, 2]


def flow_penalty(
    trajectory: Trajectory,
    forwards: Sequence[Forward],
    coefficients: Mapping[str, float],
    norm: Norm,
    reduction: Reduction,
    curvature_form: CurvatureForm,
    compiled: bool = False,
) -> Tensor:
    """``k1 sum_l |d_l| + k2 sum_l |c_l|``, 0-dim, for the ``coefficients`` given by "gradient" and "curvature".

    Raises:
        ModelError: if no pair (triple) of points enters a term.
    """
    images = sum(forward.images for forward in forwards)
    entered: set[str] = set()
    parts: list[Tensor] = []
    for forward in forwards:
        links, trajectory.left_out = links_of(trajectory, [_shape(feature) for feature in forward.features])
        here = {"gradient"} if links else set()
        here |= {"curvature"} if any(link.second is not None for link in links) else set()
        entered |= here
        short = {name: k for name, k in coefficients.items() if _is_absolute(name, norm, curvature_form, forward)}
        rest = {name: k for name, k in coefficients.items() if name not in short}
        share = forward.images / images
        with torch.autocast(forward.device.type, enabled=False):
            if here & short.keys():
                weights = [share * _weight(link, reduction) for link in links]
                pair = (short.get("gradient", 0.0), short.get("curvature", 0.0))
                parts.append(absolute_penalty(forward.features, links, weights, pair, compiled))
            for step in steps_of(trajectory, forward.features) if rest else ():
                if "gradient" in rest:
                    parts.append(share * rest["gradient"] * magnitude(step.gradient(), norm, reduction))
                if "curvature" in rest and step.twice_projected is not None:
                    parts.append(share * rest["curvature"] * _bend(step, norm, reduction, curvature_form))
    for name in coefficients:
        if name not in entered:
            raise ModelError(nothing_to_compare(name, trajectory))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _is_absolute(name: str, norm: Norm, curvature_form: CurvatureForm, forward: Forward) -> bool:
    if norm != 1 or (name == "curvature" and curvature_form != "second-difference"):
        return False
    present = [feature for feature in forward.features if feature is not None]
    return len({_precision(feature.dtype) for feature in present}) == 1


def _precision(dtype: torch.dtype) -> torch.dtype:
    return accumulated(torch.empty(0, dtype=dtype)).dtype


def _weight(link: Link, reduction: Reduction) -> float:
    """What one element of a difference counts."""
    images, channels, *positions = link.shape
    if reduction == "mean":
        return 1 / (images * channels * math.prod(positions))
    return 1 / (images * math.prod(positions)) if reduction == "channel" else 1 / images


def _shape(feature: Tensor | None) -> torch.Size | None:
    return None if feature is None else feature.shape


def _bend(step: Step, norm: Norm, reduction: Reduction, curvature_form: CurvatureForm) -> Tensor:
    if curvature_form == "angle":
        turn = step.turn()
        assert turn is not None
        return angle(*turn)
    curvature = step.curvature()
    assert curvature is not None
    return magnitude(curvature, norm, reduction)
