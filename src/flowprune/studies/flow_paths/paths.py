"""The flow made visible: its profile, and the paths of images from point to point, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from flowprune.errors import DataError, ModelError, checked_name
from flowprune.methods.regularizers.feature_flow.finding import find_trajectory, layout_or_names
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory
from flowprune.methods.regularizers.feature_flow.points.points import Point
from flowprune.methods.regularizers.feature_flow.points.recording import Forward, Recorder
from flowprune.methods.regularizers.feature_flow.profile import FlowProfile, measure_flow
from flowprune.methods.regularizers.feature_flow.unwrapping import call_inputs, unwrapped
from flowprune.studies.flow_paths.segments import segments
from flowprune.studies.flow_paths.stage_paths import StagePaths, StageTotals, images_of

MOST_CLASSES = 10
"""So many classes' paths are followed where nobody names them; more could not be told apart in a picture."""


@dataclass(frozen=True)
class FlowPaths:
    """What the flow of a network looks like.

    Attributes:
        profile: point by point.
        stages: run by run of points of one shape.
        left_out: stages that cannot be drawn, and why.
    """

    profile: FlowProfile
    stages: tuple[StagePaths, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> dict[str, float | None]:
        """The whole flow in a few numbers, by name; None where nothing enters.

        - ``gradient``: sum over points of mean |d|; ``curvature``: of mean |c|;
        - ``relative_gradient``, ``relative_curvature``: the same of |d| / |Y| and |c| / |Y|. A network that makes all its features
          smaller lowers the first two and not these;
        - ``angle``: mean over points of the angle between successive differences, in radians;
        - ``straightness``: mean over the stages of two steps and more; every stage counts alike, or a network that moves mostly
          in its straightest stage would look straighter than it is anywhere;
        - ``silent``: how many branch ends are silent.
        """
        points = self.profile.points
        return {
            "gradient": _sum(point.gradient for point in points),
            "relative_gradient": _sum(point.relative for point in points),
            "curvature": _sum(point.curvature for point in points),
            "relative_curvature": _sum(
                None if point.curvature is None or point.magnitude == 0 else point.curvature / point.magnitude
                for point in points
            ),
            "angle": _mean(point.angle for point in points),
            "straightness": _mean(stage.straightness for stage in self.stages),
            "silent": float(self.profile.silent),
        }

    def as_dict(self) -> dict[str, Any]:
        """The profile's dictionary with ``stages``, ``totals`` and ``stages_left_out`` beside its own keys, ready for JSON."""
        return {
            **self.profile.as_dict(),
            "totals": self.totals,
            "stages": [stage.as_dict() for stage in self.stages],
            "stages_left_out": dict(self.left_out),
        }

    def __str__(self) -> str:
        lines = [str(self.profile)]
        for stage in self.stages:
            straight = "-" if stage.straightness is None else format(stage.straightness, ".3f")
            relative = format(stage.length / stage.scale, ".4g") if stage.scale > 0 else "-"
            lines.append(
                f"{stage.points[0]} ... {stage.points[-1]} ({'x'.join(map(str, stage.shape))}): length {stage.length:.4g}, "
                f"{relative} of the features' size, straightness {straight}"
            )
        return "\n".join([*lines, *(f"not drawn: {name}: {reason}" for name, reason in self.left_out.items())])


def flow_paths(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    classes: Sequence[int] | None = None,
    points: Literal["blocks", "layers"] | Sequence[str] = "blocks",
    across: Literal["skip", "project"] | None = None,
) -> FlowPaths:
    """Measure the flow of a model and the paths its images take, in one pass without gradients.

    A stage is a run of points of one shape; it begins, where that step enters the flow, with the last point of the stage before
    as P_l carries it. There the differences are vectors of one space, so lengths, straightness and a picture mean something.
    Lengths are those of every image's own path, in all dimensions: channels and positions. The picture shows each class's mean
    path in the plane of the two principal components of these paths, exactly (there are few points, so nothing is projected at
    random and no position averaged away). Every network has a plane of its own, because two networks' features have no basis in
    common; but the plane depends on distances alone, and in units of the features' mean size they compare.

    The model runs in evaluation mode and is put back as it was. What is kept is (classes) x (elements of all points) sums.

    Args:
        model: any model with convolutions, or with the modules named in ``points``.
        batches: (input, label) pairs with integer labels [N], or inputs alone (or dictionaries of keyword arguments): then one
            path for all images is followed. Read once.
        classes: labels to follow; None for the first ten that are met (within a batch the lower ones first).
        points, across: as of ``FeatureFlow``.

    Raises:
        ModelError: the model has no points, or no two that can be compared.
        DataError: there is no batch, a label is none, images differ in size, or a class in ``classes`` has no image.
        UnknownNameError: for an unknown option or module name.
        TraceError: if its forward cannot be recorded.

    Example:
        >>> import torch, flowprune as fp
        >>> found = fp.flow_paths(fp.models.create("resnet8", width=4), [torch.randn(8, 3, 32, 32)])
        >>> len(found.profile.points), [stage.shape for stage in found.stages]
        (4, [(4, 32, 32), (8, 16, 16), (16, 8, 8)])
        >>> found.totals["gradient"] > 0
        True
    """
    checked_name("across", across, ("skip", "project", None))
    root = unwrapped(model)
    chosen = layout_or_names(points, root)
    found: list[Trajectory] = []

    def prepare(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Sequence[Point]:
        trajectory, wanted = find_trajectory(root, call_inputs(root, arguments, keywords), chosen, across)
        if len(trajectory.points) < 2:
            raise _no_path(trajectory.points, trajectory.left_out)
        found.append(trajectory)
        return wanted

    follower = _Follower(found, classes)
    recorder = Recorder(root, prepare)
    try:
        profile = measure_flow(root, recorder, found, batches, follower.watch)
    finally:
        recorder.close()
    return follower.result(profile)


class _Follower:
    """Adds up the paths while the profile is measured."""

    def __init__(self, trajectory: Sequence[Trajectory], classes: Sequence[int] | None) -> None:
        self.trajectory = trajectory
        self.given = None if classes is None else list(dict.fromkeys(int(label) for label in classes))
        self.met: list[int | None] = []
        self.stages: list[StageTotals] = []
        self.left_out: dict[str, str] = {}
        self.begun = False

    def watch(self, batch: Any, forward: Forward) -> None:
        trajectory = self.trajectory[0]
        labels = _labels(batch)
        images = len(labels) if labels is not None else forward.images
        drawn = []
        for segment in segments(trajectory, forward.features):
            if segment.features[0].shape[0] == images:
                drawn.append(segment)
            else:
                names = [trajectory.points[number].name for number in (segment.points[0], segment.points[-1])]
                self.left_out[" ... ".join(names)] = (
                    f"its first dimension is {segment.features[0].shape[0]} for {images} images"
                )
        if not self.begun:
            self.begun = True
            self.stages = [StageTotals(*segment.key, segment.carried) for segment in drawn]
        if [segment.key for segment in drawn] != [(stage.points, stage.shape) for stage in self.stages]:
            raise DataError(
                "flow_paths() was given images of different sizes, or the model runs other points for some of them; "
                "pass images of one size"
            )
        members = self._members(labels, images)
        for stage, segment in zip(self.stages, drawn, strict=True):
            device = segment.features[0].device
            stage.add(segment, {label: which.to(device) for label, which in members.items()})

    def _members(self, labels: Tensor | None, images: int) -> Mapping[int | None, Tensor]:
        members = images_of(labels, images, self.given)
        if self.given is not None:
            return members
        room = MOST_CLASSES - len(self.met)
        self.met += [label for label in members if label not in self.met][:room]
        return {label: which for label, which in members.items() if label in self.met}

    def result(self, profile: FlowProfile) -> FlowPaths:
        if not self.stages:
            raise _no_path(self.trajectory[0].points, {**profile.left_out, **self.left_out})
        names = [point.name for point in profile.points]
        known = self.stages[0].counts
        if self.given is not None and None not in known:
            missing = [label for label in self.given if label not in known]
            if missing:
                raise DataError(f"there is no image of class {missing[0]}; use more images, or other classes")
        if not known:
            raise DataError("flow_paths() was given no class to follow; leave classes out for the first ten")
        labels = sorted(known, key=lambda label: -1 if label is None else label)
        return FlowPaths(profile, tuple(stage.paths(names, labels) for stage in self.stages), self.left_out)


def _no_path(points: Sequence[Point], left_out: Mapping[str, str]) -> ModelError:
    reasons = [f"{name}: {reason}" for name, reason in left_out.items()]
    names = ", ".join(point.name for point in points) or "none"
    return ModelError(
        "this model's flow has no path: no two neighbouring points can be compared "
        f"({reasons[0] if reasons else f'points: {names}'}); name other points"
        + (', or let across="project" join them' if any("project" in reason for reason in reasons) else "")
    )


def _labels(batch: Any) -> Tensor | None:
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
        return batch[1]
    return None


def _sum(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return math.fsum(known) if known else None


def _mean(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return math.fsum(known) / len(known) if known else None
