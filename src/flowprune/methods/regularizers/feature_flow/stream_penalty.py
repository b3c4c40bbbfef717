"""The forms of the penalty that look at more than one difference at a time: relative sizes, channels as groups, whole ways.

Per link and channel only sums are needed (of sizes or squares, over images and positions), so forwards and processes are added up
first and the roots and quotients are taken of the sums: the penalty is that of all images in one batch. Autograd does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow.maps.links import steps_of
from flowprune.methods.regularizers.feature_flow.maps.magnitude import accumulated, angle, magnitude
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Step, Trajectory
from flowprune.methods.regularizers.feature_flow.penalty.between_processes import summed
from flowprune.methods.regularizers.feature_flow.penalty.nothing_to_penalize import nothing_to_compare
from flowprune.methods.regularizers.feature_flow.points.recording import Forward

if TYPE_CHECKING:
    from flowprune.methods.regularizers.feature_flow.form import Form
    from flowprune.methods.regularizers.feature_flow.ways import Ways

FIRST = 0.25
"""What the square of a way's first feature counts beside those of its differences."""


def stream_penalty(
    trajectory: Trajectory,
    forwards: Sequence[Forward],
    coefficients: Mapping[str, float],
    form: Form,
    ways: Ways | None,
) -> Tensor:
    """``k1 sum_l |d_l| + k2 sum_l |c_l|``, 0-dim, for forms that are not plain; ``FeatureFlow`` has the equations.

    Args:
        trajectory: the points.
        forwards: since the last penalty.
        coefficients: k1 as "gradient", k2 as "curvature".
        form: what |.| is.
        ways: which channels are one, where the form needs them.

    Raises:
        ModelError: if no pair (triple) of points enters a term.
    """
    sums = _Sums()
    for forward in forwards:
        with torch.autocast(forward.device.type, enabled=False):
            arrived = set()
            for step in steps_of(trajectory, forward.features):
                arrived.add(step.index)
                sums.take(f"stream {step.index}", _size(step.feature, form), step.feature)
                for name in coefficients:
                    difference = step.gradient() if name == "gradient" else step.curvature()
                    if difference is not None:
                        sums.take(f"{name} {step.index}", _sizes(step, difference, name, form), step.feature)
            for index, feature in enumerate(forward.features):
                if form.norm == "path" and "gradient" in coefficients and index not in arrived and feature is not None:
                    ready = accumulated(feature)
                    sums.take(f"gradient {index}", FIRST * _squares(ready), ready)
                    sums.take(f"stream {index}", _size(ready, form), ready)
    means = sums.means()
    parts: list[Tensor] = []
    for name, coefficient in coefficients.items():
        own = [index for index in range(len(trajectory.points)) if f"{name} {index}" in means]
        if not any(not trajectory.begins(index) for index in own):
            raise ModelError(nothing_to_compare(name, trajectory))
        if name == "curvature" and form.curvature_form == "angle":
            parts.append(coefficient * torch.stack([means[f"{name} {index}"] for index in own]).sum())
            continue
        scaled = {index: means[f"{name} {index}"] / _divisor(means[f"stream {index}"], form) for index in own}
        shapes = {index: sums.shapes[f"{name} {index}"] for index in own}
        parts.append(coefficient * (_of_ways if form.norm == "path" else _of_links)(scaled, shapes, form, ways))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class _Sums:
    """Sums over images, by what they are of, and over how many images."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.images: dict[str, float] = {}
        self.shapes: dict[str, torch.Size] = {}

    def take(self, name: str, mean: Tensor, feature: Tensor) -> None:
        """Take in a mean over the images of a feature."""
        count = feature.shape[0]
        self.totals[name] = self.totals[name] + count * mean if name in self.totals else count * mean
        self.images[name] = self.images.get(name, 0.0) + count
        self.shapes[name] = feature.shape

    def means(self) -> dict[str, Tensor]:
        """Means over all images of all forwards and processes."""
        names = list(self.totals)
        counts = [self.totals[name].new_tensor(self.images[name]) for name in names]
        together = summed([*(self.totals[name] for name in names), *counts])
        return {name: together[n] / together[len(names) + n] for n, name in enumerate(names)}


def _size(feature: Tensor, form: Form) -> Tensor:
    """What the size of the stream is worked out from: a mean over images."""
    if form.by_channels:
        return feature.square().mean()
    assert form.norm == 1 or form.norm == 2
    return magnitude(feature, form.norm, "mean")


def _sizes(step: Step, difference: Tensor, name: str, form: Form) -> Tensor:
    """One number for a difference, or with channel groups the mean square of every channel: means over images."""
    if form.by_channels:
        return _squares(difference)
    if name == "curvature" and form.curvature_form == "angle":
        turn = step.turn()
        assert turn is not None
        return angle(*turn)
    assert form.norm == 1 or form.norm == 2
    return magnitude(difference, form.norm, form.reduction)


def _squares(tensor: Tensor) -> Tensor:
    """``[C]``: the mean square of every channel over images and positions."""
    return tensor.square().mean(dim=(0, *range(2, tensor.dim())))


def _divisor(size: Tensor, form: Form) -> Tensor:
    """What sizes (squares, with channel groups) are divided by; 1 where the stream is zero."""
    if form.size == "absolute":
        return torch.ones_like(size)
    size = torch.where(size > 0, size, 1.0)
    return size.detach() if form.size == "detached" else size


def _root(squares: Tensor) -> Tensor:
    """The square root, with subgradient 0 at 0."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def _of_links(sizes: Mapping[int, Tensor], shapes: Mapping[int, torch.Size], form: Form, ways: Ways | None) -> Tensor:
    total = torch.zeros(())
    for number, (index, size) in enumerate(sizes.items()):
        if form.by_channels:
            size = _root(size)
            if form.weights == "macs":
                assert ways is not None
                size = size * ways.weights[ways.labels[index]].to(size.device, size.dtype)
            positions = math.prod(shapes[index][2:]) if form.reduction == "sum" else 1
            size = size.mean() if form.reduction == "mean" else positions * size.sum()
        total = size if number == 0 else total + size
    return total


def _of_ways(squares: Mapping[int, Tensor], shapes: Mapping[int, torch.Size], form: Form, ways: Ways | None) -> Tensor:
    """The root of each way's squares, added up."""
    assert ways is not None
    some = next(iter(squares.values()))
    whole = some.new_zeros(len(ways.costs))
    for index, square in squares.items():
        whole = whole.index_add(0, ways.labels[index].to(some.device), square)
    weights = ways.weights if form.weights == "macs" else torch.ones_like(ways.costs)
    lengths = _root(whole) * weights.to(some.device, some.dtype)
    if form.reduction == "channel":
        return lengths.sum()
    taking_part = torch.cat([ways.labels[index] for index in squares]).unique()
    return lengths.sum() / len(taking_part)
