"""The two terms of the penalty, summed over the steps of the recorded forwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flowprune.errors import ModelError
from flowprune.flow.complaints import nothing_to_compare
from flowprune.flow.magnitude import Reduction, angle, magnitude
from flowprune.flow.recording import Forward
from flowprune.flow.trajectory import Step, Trajectory

CurvatureForm = Literal["second-difference", "angle"]


def flow_terms(
    trajectory: Trajectory,
    forwards: Sequence[Forward],
    wanted: Sequence[str],
    norm: Literal[1, 2],
    reduction: Reduction,
    curvature_form: CurvatureForm,
) -> dict[str, Tensor]:
    """``sum_l |d_l|`` ("gradient") and ``sum_l |c_l|`` ("curvature") as far as wanted, as if the forwards had been one batch.

    Raises:
        ModelError: if no pair (triple) of points enters a wanted term.
    """
    images = sum(forward.images for forward in forwards)
    totals: dict[str, Tensor] = {}
    if not wanted:
        return totals
    for forward in forwards:
        weight = forward.images / images
        with torch.autocast(forward.device.type, enabled=False):
            for step in trajectory.steps(forward.features):
                if "gradient" in wanted:
                    size = magnitude(step.gradient(), norm, reduction)
                    totals["gradient"] = totals.get("gradient", 0) + weight * size
                if "curvature" in wanted and step.twice_projected is not None:
                    bend = _bend(step, norm, reduction, curvature_form)
                    totals["curvature"] = totals.get("curvature", 0) + weight * bend
    for name in wanted:
        if name not in totals:
            raise ModelError(nothing_to_compare(name, trajectory))
    return totals


def _bend(step: Step, norm: Literal[1, 2], reduction: Reduction, curvature_form: CurvatureForm) -> Tensor:
    if curvature_form == "angle":
        turn = step.turn()
        assert turn is not None
        return angle(*turn)
    curvature = step.curvature()
    assert curvature is not None
    return magnitude(curvature, norm, reduction)
