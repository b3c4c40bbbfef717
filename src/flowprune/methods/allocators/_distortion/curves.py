"""Distortion curves: how far the outputs move when one unit alone loses so much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.engine.measuring.batches import input_of, model_device
from flowprune.engine.tracing.shadow import call_model
from flowprune.errors import DataError, ModelError

Over = Literal["mean", "worst"]


@dataclass(frozen=True)
class Curve:
    """One unit's: ``distortions[i]`` at ``levels[i]``, levels ascending from 0."""

    levels: Levels
    distortions: NDArray[np.float64]

    def at(self, level: int) -> float:
        """The distortion at a level, between two that were measured on the line through both."""
        return float(np.interp(level, self.levels, self.distortions))


def total_distortion(curves: Sequence[Curve], levels: Levels) -> float:
    """The sum over the units: what the joint distortion is taken to be."""
    return float(sum(curve.at(int(level)) for curve, level in zip(curves, levels, strict=True)))


def grid_of(problem: AllocationProblem, unit: int, points: int) -> Levels:
    """The levels at which a unit is measured: ``floor(size i / points)`` and its limit, as far as they are allowed."""
    size, limit = int(problem.sizes[unit]), int(problem.limits[unit])
    wanted = np.unique([*(size * i // points for i in range(points + 1)), limit])
    alone = np.zeros(len(problem.units), dtype=np.int64)
    allowed = {0}
    for level in wanted[wanted <= limit]:
        alone[unit] = level
        allowed.add(int(problem.rounding(alone)[unit]))
    return np.array(sorted(allowed), dtype=np.int64)


def distortion_curves(
    problem: AllocationProblem, batches: Iterable[Any], *, points: int = 100, over: Over = "mean"
) -> list[Curve]:
    """Measure every unit's curve on networks that have really lost so much.

    Xu et al., Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks, ICCV 2023, arXiv 2308.10438:
    ``delta_l(a) = mean_x ||f(x) - f_l,a(x)||^2 / outputs``, where the network f_l,a has lost the share a of layer l alone.

    Args:
        problem: the units, and how to make the networks.
        batches: inputs, (input, target) pairs or dictionaries of keyword inputs; read once and kept.
        points: how many steps the grid of shares has.
        over: the "mean" over all samples, or the "worst" sample's.

    Returns:
        A curve for each unit; 0 where nothing is lost.

    Raises:
        DataError: there is no batch.
        ModelError: the outputs hold no floating-point tensor, or an output is NaN or infinite.
    """
    dense = problem.probe(np.zeros(len(problem.units), dtype=np.int64))
    inputs = [input_of(batch, model_device(dense)) for batch in batches]
    if not inputs:
        raise DataError("rate-distortion curves need calibration batches, and none was given")
    reference = [_outputs(dense, given) for given in inputs]
    curves = []
    for unit in range(len(problem.units)):
        levels = grid_of(problem, unit, points)
        distortions = np.zeros(len(levels))
        for number, level in enumerate(levels[1:], start=1):
            alone = np.zeros(len(problem.units), dtype=np.int64)
            alone[unit] = level
            changed = problem.probe(alone)
            errors = torch.cat(
                [(_outputs(changed, x) - y).square().mean(1) for x, y in zip(inputs, reference, strict=True)]
            )
            if not errors.isfinite().all():
                lost = f"{level} of its {problem.sizes[unit]}"
                raise ModelError(f"the outputs are NaN or infinite where {problem.units[unit]} loses {lost} steps")
            distortions[number] = float(errors.mean() if over == "mean" else errors.max())
        curves.append(Curve(levels, distortions))
    return curves


def _outputs(model: nn.Module, inputs: Any) -> torch.Tensor:
    """``[samples, outputs]`` in float64: all floating-point tensors that the model returns, side by side."""
    with torch.no_grad():
        leaves = tree_leaves(call_model(model, inputs))
    found = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.ndim > 0]
    if not found:
        raise ModelError(f"{type(model).__name__} returns no floating-point tensor, so its outputs cannot be compared")
    return torch.cat([leaf.double().reshape(len(leaf), -1) for leaf in found], dim=1)
