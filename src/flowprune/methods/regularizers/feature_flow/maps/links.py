"""Which features meet in which difference, worked out once for the shapes of a forward.

A link is the arrival at one point: d = Y - P Y' and, where the triple enters, c = Y - 2 P Y' + P P' Y''. It says by which maps the
two earlier features come to the shape of the last, so that the differences can be made piece by piece, of some images at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.methods.regularizers.feature_flow.maps.magnitude import accumulated
from flowprune.methods.regularizers.feature_flow.maps.passage import projection
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Step, Trajectory

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Link:
    """The arrival at a point.

    Attributes:
        index: of the point, ``l + 1``.
        shape: of its feature.
        first: what ``Y_l`` goes through to that shape, in order; nothing where the shapes agree.
        second: what ``Y_{l-1}`` goes through, in order; None where the triple does not enter.
    """

    index: int
    shape: torch.Size
    first: tuple[Map, ...]
    second: tuple[Map, ...] | None

    @property
    def plain(self) -> bool:
        """Whether all its features have one shape."""
        return not self.first and not self.second


def links_of(trajectory: Trajectory, shapes: Sequence[torch.Size | None]) -> tuple[list[Link], dict[str, str]]:
    """Every link that enters, and what does not: "point -> point" -> reason.

    Args:
        trajectory: the points.
        shapes: of their features in one forward; None for a point that did not run.
    """
    links: list[Link] = []
    left_out = dict(trajectory.unplaced)
    before: tuple[Map, ...] | None = None  # what Y_{l-1} went through to the shape of Y_l
    for index in range(1, len(shapes)):
        if trajectory.begins(index):
            before = None
            continue
        source, target = shapes[index - 1], shapes[index]
        passage = trajectory.passages[index - 1]
        if source is None or target is None:
            first: Map | str | None = "one of the two did not run in this forward"
        else:
            first = projection(source, target, passage, trajectory.across)
        if target is None or isinstance(first, str):
            left_out[trajectory.pair(index)] = str(first)
            before = None
            continue
        step = () if first is None else (first,)
        links.append(Link(index, target, step, None if before is None else (*before, *step)))
        before = step
    return links, left_out


def carried_by(maps: Sequence[Map], feature: Tensor) -> Tensor:
    """The feature after all ``maps``."""
    for each in maps:
        feature = each(feature)
    return feature


def steps_of(trajectory: Trajectory, features: Sequence[Tensor | None]) -> Iterator[Step]:
    """Every step that enters, for the features of one forward ([N, C, ...] each; None for a point that did not run)."""
    known = [None if feature is None else accumulated(feature) for feature in features]
    links, trajectory.left_out = links_of(trajectory, [None if one is None else one.shape for one in known])
    before: Tensor | None = None  # P_{l-1} Y_{l-1}, in the shape of Y_l
    for link in links:
        source, target = known[link.index - 1], known[link.index]
        assert source is not None and target is not None
        projected = carried_by(link.first, source)
        twice = None if link.second is None or before is None else carried_by(link.first, before)
        yield Step(link.index, target, projected, twice)
        before = projected
