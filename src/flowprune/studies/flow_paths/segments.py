"""The stages of a trajectory: runs of points of one shape, in which differences are lengths of one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from flowprune.methods.regularizers.feature_flow.maps.links import steps_of
from flowprune.methods.regularizers.feature_flow.maps.passage import is_another_layout
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Step, Trajectory


@dataclass(frozen=True)
class Segment:
    """The way of one batch through one stage.

    Attributes:
        points: the numbers of its points in the trajectory.
        carried: whether the first of them is of another shape and stands here as ``P_l`` carries it into this stage.
        features: [N, C, ...] each, all of one shape.
    """

    points: tuple[int, ...]
    carried: bool
    features: tuple[Tensor, ...]

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What must be equal from batch to batch: the points and the shape without the batch."""
        return self.points, tuple(self.features[0].shape[1:])


def segments(trajectory: Trajectory, features: Sequence[Tensor | None]) -> list[Segment]:
    """Cut one forward's trajectory wherever the shape changes (more than in layout) or a step does not enter.

    A stage that is entered by a step which enters the flow begins with ``P_l Y_l``, the last point of the stage before in this
    stage's shape, so that every step of the flow lies in exactly one stage. Points without a step are in none.
    """
    found: list[Segment] = []
    steps: list[Step] = []
    for step in steps_of(trajectory, features):
        if steps and not _continues(trajectory, steps[-1], step):
            found.append(_segment(steps, features))
            steps = []
        steps.append(step)
    return [*found, _segment(steps, features)] if steps else found


def _continues(trajectory: Trajectory, before: Step, step: Step) -> bool:
    here, there = before.feature.shape, step.feature.shape
    alike = here == there or is_another_layout(here, there, trajectory.passages[step.index - 1])
    return step.index == before.index + 1 and alike


def _segment(steps: Sequence[Step], features: Sequence[Tensor | None]) -> Segment:
    first = steps[0]
    source = features[first.index - 1]
    carried = source is not None and source.shape != first.projected.shape
    numbers = (first.index - 1, *(step.index for step in steps))
    shape = first.projected.shape
    return Segment(numbers, carried, (first.projected, *(step.feature.reshape(shape) for step in steps)))
