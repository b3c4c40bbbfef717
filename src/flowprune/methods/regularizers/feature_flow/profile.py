"""What the flow of a network looks like, point by point, measured on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowprune.engine.measuring.batches import input_of, model_device
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.tracing import call_model
from flowprune.errors import DataError
from flowprune.methods.regularizers.feature_flow.maps.links import steps_of
from flowprune.methods.regularizers.feature_flow.maps.magnitude import angle
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Step, Trajectory
from flowprune.methods.regularizers.feature_flow.points.recording import Forward, Recorder

SILENT_BELOW = 1e-3
"""A branch end is silent below this share of the network's median of mean |Y_c|."""


@dataclass(frozen=True)
class PointProfile:
    """One point. Means are over images, channels and positions; None where no pair (triple) enters.

    Attributes:
        name: of the point.
        kind: "stem", "block", "convolution" or "named".
        shape: of the feature without the batch.
        magnitude: mean |Y|.
        gradient: mean |d|, d = Y - P Y' with Y' the point before.
        relative: mean |d| / mean |Y|; None too where Y is 0.
        curvature: mean |c|, the second difference that ends here.
        angle: mean over images of the angle between the last two differences, in radians.
        silent: channels of a residual block whose mean |d_c| is below 1e-3 of the network's median of mean |Y_c|: the branch
            adds nothing to them. None where the point ends no residual block with a parameter-free shortcut.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    magnitude: float
    gradient: float | None
    relative: float | None
    curvature: float | None
    angle: float | None
    silent: tuple[int, ...] | None


@dataclass(frozen=True)
class FlowProfile:
    """The flow of a network.

    Attributes:
        points: one row per point, in order.
        images: how many images were measured.
        median_magnitude: the median over all channels of all points of mean |Y_c|.
        left_out: pairs of points that do not enter, and points out of reach: name -> reason.
    """

    points: tuple[PointProfile, ...]
    images: int
    median_magnitude: float
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def gradient(self) -> float:
        """The length of the flow: the sum of mean |d|."""
        return sum(point.gradient or 0.0 for point in self.points)

    @property
    def curvature(self) -> float:
        """The total absolute curvature: the sum of mean |c|."""
        return sum(point.curvature or 0.0 for point in self.points)

    @property
    def silent(self) -> int:
        """How many branch ends are silent."""
        return sum(len(point.silent or ()) for point in self.points)

    def as_dict(self) -> dict[str, Any]:
        """Nested dictionaries and lists of strings, numbers and None, ready for JSON."""
        rows = [
            {key: list(one) if isinstance(one, tuple) else one for key, one in asdict(point).items()}
            for point in self.points
        ]
        return {
            "images": self.images,
            "median_magnitude": self.median_magnitude,
            "gradient": self.gradient,
            "curvature": self.curvature,
            "silent": self.silent,
            "points": rows,
            "left_out": dict(self.left_out),
        }

    def __str__(self) -> str:
        width = max([len(point.name) for point in self.points] + [5])
        lines = [f"{'point':{width}}  {'shape':>12}  {'|Y|':>9}  {'|d|':>9}  {'|d|/|Y|':>9}  {'|c|':>9}  silent"]
        for point in self.points:
            numbers = (point.magnitude, point.gradient, point.relative, point.curvature)
            cells = "  ".join(f"{'-' if number is None else format(number, '.4g'):>9}" for number in numbers)
            silent = "-" if point.silent is None else str(len(point.silent))
            lines.append(f"{point.name:{width}}  {'x'.join(map(str, point.shape)):>12}  {cells}  {silent:>6}")
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def measure_flow(
    root: nn.Module,
    recorder: Recorder,
    trajectory: Sequence[Trajectory],
    batches: Iterable[Any],
    watch: Callable[[Any, Forward], None] | None = None,
) -> FlowProfile:
    """Run ``root`` in evaluation mode, without gradients, over ``batches`` and add up what the points show.

    ``trajectory`` is read after the first forward, because that may be what finds the points: a sequence that then holds one.
    Every module's mode is put back. ``watch`` is given every batch with the features of its forward.
    """
    device = model_device(root)
    totals: list[_Totals] = []
    with evaluating(root), torch.no_grad(), recorder.measuring():
        for batch in batches:
            call_model(root, input_of(batch, device))
            for forward in recorder.take():
                totals = totals or [_Totals() for _ in forward.features]
                _add(totals, forward.features, trajectory[0])
                if watch is not None:
                    watch(batch, forward)
    if not totals or not any(total.images for total in totals):
        raise DataError(
            "profile() was given no batch to measure; pass an iterable of inputs or of (input, target) pairs"
        )
    return _profile(totals, trajectory[0])


@dataclass
class _Totals:
    """Sums over images of each channel's mean over positions, in float64."""

    images: int = 0
    shape: tuple[int, ...] = ()
    magnitude: Tensor | None = None
    gradient: Tensor | None = None
    curvature: Tensor | None = None
    angle: float | None = None


def _add(totals: list[_Totals], features: Sequence[Tensor | None], trajectory: Trajectory) -> None:
    for total, feature in zip(totals, features, strict=True):
        if feature is not None:
            total.images += feature.shape[0]
            total.shape = tuple(feature.shape[1:])
            total.magnitude = _plus(total.magnitude, feature)
    for step in steps_of(trajectory, features):
        total = totals[step.index]
        total.gradient = _plus(total.gradient, step.gradient())
        curvature, turn = step.curvature(), step.turn()
        if curvature is not None and turn is not None:
            total.curvature = _plus(total.curvature, curvature)
            total.angle = (total.angle or 0.0) + _images(step) * float(angle(*turn))


def _images(step: Step) -> int:
    return step.feature.shape[0]


def _plus(total: Tensor | None, feature: Tensor) -> Tensor:
    sizes = feature.abs().cpu().double()
    by_channel = sizes.flatten(2).mean(2).sum(0) if sizes.dim() > 2 else sizes.sum(0)
    return by_channel if total is None else total + by_channel


def _profile(totals: list[_Totals], trajectory: Trajectory) -> FlowProfile:
    channels = [total.magnitude / total.images for total in totals if total.magnitude is not None]
    median = float(np.median(torch.cat(channels).numpy()))
    rows = []
    for index, (total, point) in enumerate(zip(totals, trajectory.points, strict=True)):
        passage = trajectory.passages[index - 1] if index else None
        magnitude = _mean(total.magnitude, total.images) or 0.0
        gradient = _mean(total.gradient, total.images)
        silent = None
        if total.gradient is not None and passage is not None and passage.residual:
            quiet = total.gradient / total.images < SILENT_BELOW * median
            silent = tuple(int(channel) for channel in quiet.nonzero().flatten())
        rows.append(
            PointProfile(
                name=point.name,
                kind=point.kind,
                shape=total.shape,
                magnitude=magnitude,
                gradient=gradient,
                relative=None if gradient is None or magnitude == 0 else gradient / magnitude,
                curvature=_mean(total.curvature, total.images),
                angle=None if total.angle is None else total.angle / total.images,
                silent=silent,
            )
        )
    images = max(total.images for total in totals)
    return FlowProfile(tuple(rows), images, median, dict(trajectory.left_out))


def _mean(total: Tensor | None, images: int) -> float | None:
    return None if total is None else float(total.mean()) / images
