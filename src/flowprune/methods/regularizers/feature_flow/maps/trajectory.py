"""The differences of the flow between its points: which pairs and triples enter, and which are left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from flowprune.engine.tracing import Graph
from flowprune.methods.regularizers.feature_flow.maps.passage import Across, Passage, find_passage
from flowprune.methods.regularizers.feature_flow.points.makers import makers_at
from flowprune.methods.regularizers.feature_flow.points.points import Point


@dataclass(frozen=True)
class Step:
    """From one point to the next.

    Attributes:
        index: of the point arrived at, ``l + 1``.
        feature: ``Y_{l+1}``.
        projected: ``P_l Y_l``.
        twice_projected: ``P_l P_{l-1} Y_{l-1}``, where the triple enters.
    """

    index: int
    feature: Tensor
    projected: Tensor
    twice_projected: Tensor | None

    def gradient(self) -> Tensor:
        """``d_l = Y_{l+1} - P_l Y_l``."""
        return self.feature - self.projected

    def curvature(self) -> Tensor | None:
        """``c_l = Y_{l+1} - 2 P_l Y_l + P_l P_{l-1} Y_{l-1}``: features are projected, never differences."""
        if self.twice_projected is None:
            return None
        return self.feature - 2 * self.projected + self.twice_projected

    def turn(self) -> tuple[Tensor, Tensor] | None:
        """The two successive differences in the shape of ``Y_{l+1}``: before and after ``Y_l``."""
        if self.twice_projected is None:
            return None
        return self.projected - self.twice_projected, self.feature - self.projected


@dataclass
class Trajectory:
    """The points of a network in order.

    Attributes:
        points: in order.
        passages: for every two adjacent points the model's own parameter-free path, or None.
        across: what happens where the shape changes.
        unplaced: points no module gives access to, name -> reason.
        left_out: those and every pair that did not enter the last time, name -> reason.
        makers: by point, names of the weights that make its channels; () where the trace shows none.
        channels: by point, how many; 0 where there is no trace.
    """

    points: tuple[Point, ...]
    passages: tuple[Passage | None, ...]
    across: Across
    unplaced: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    makers: tuple[tuple[str, ...], ...] = ()
    channels: tuple[int, ...] = ()

    def begins(self, index: int) -> bool:
        """Whether a trajectory of its own begins at this point, so that the point before it is no neighbour."""
        return index == 0 or self.points[index].flow != self.points[index - 1].flow

    def pair(self, index: int) -> str:
        """How the step that arrives at this point is called."""
        return f"{self.points[index - 1].name} -> {self.points[index].name}"


def trajectory_of(points: Sequence[Point], graph: Graph | None, across: Across, unplaced: dict[str, str]) -> Trajectory:
    """Join the points to a trajectory, with the model's own paths between them where the trace shows one."""
    passages: list[Passage | None] = []
    seen = [None if graph is None or point.value is None else (graph, point.value) for point in points]
    makers = tuple(() if one is None else makers_at(*one) for one in seen)
    channels = tuple(0 if one is None else int(one[0].values[one[1]].shape[1]) for one in seen)
    for source, target in pairwise(points):
        if graph is None or source.value is None or target.value is None:
            passages.append(None)
        else:
            passages.append(find_passage(graph, source.value, target.value))
    return Trajectory(tuple(points), tuple(passages), across, dict(unplaced), dict(unplaced), makers, channels)
