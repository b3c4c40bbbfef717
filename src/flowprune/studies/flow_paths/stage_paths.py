"""The paths of images through one stage: how long, how straight, and where each class goes on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowprune.errors import DataError
from flowprune.methods.regularizers.feature_flow.maps.magnitude import accumulated
from flowprune.reporting.results import StageRow
from flowprune.studies.flow_paths.principal_plane import principal_plane
from flowprune.studies.flow_paths.segments import Segment

_DIGITS = 5  # of a coordinate; the largest ones are around 1


class StagePaths(StageRow):
    """The paths through one stage, the points Y_0 ... Y_n of one shape.

    All lengths are Euclidean, of one image's whole feature (channels and positions), and means over images.

    Attributes:
        points: names of the points.
        carried: whether the first is the last of the stage before, carried into this shape by ``P_l``.
        shape: of the features without the batch.
        images: how many were measured.
        scale: mean over images and points of ||Y||, the size of the features here.
        steps: mean ||Y_{l+1} - Y_l||, one a step.
        length: of the path, the sum of its steps.
        net: mean ||Y_n - Y_0||.
        straightness: mean over the images that move of net displacement over length: 1 for a straight path, 1 / sqrt(n) for n
            equal steps at right angles to each other, 0 for a loop. None for a single step, which is always straight, and
            where nothing moves.
        along, aside: where point l lies as seen from the straight line from Y_0 to Y_n: how far along it, and how far from it.
        labels: of the classes whose mean path is drawn; None stands for all images, where there are no labels.
        counts: how many images each of them has.
        coordinates: of the classes' mean paths, [classes][points][2], in units of ``scale``; see ``principal_plane``.
        explained: the share of the mean paths' variance that each axis shows.
        visible: the length of the mean paths as drawn over their length in all dimensions.
    """

    def as_dict(self) -> dict[str, Any]:
        """Lists, strings, numbers and None, ready for JSON."""
        return self.model_dump(mode="json")


@dataclass
class StageTotals:
    """Sums over images, batch by batch.

    Class means keep every position: a mean over positions could not tell a feature that moves across the image from one that
    rests. They need (classes) x (elements of a feature) x 4 bytes a point.
    """

    points: tuple[int, ...]
    shape: tuple[int, ...]
    carried: bool
    images: int = 0
    moving: int = 0
    straight: float = 0.0
    net: float = 0.0
    sizes: Tensor | None = None
    steps: Tensor | None = None
    along: Tensor | None = None
    aside: Tensor | None = None
    means: dict[int | None, list[Tensor]] = field(default_factory=dict)
    counts: dict[int | None, int] = field(default_factory=dict)

    def add(self, segment: Segment, chosen: Mapping[int | None, Tensor]) -> None:
        """Add a batch; ``chosen`` says for every class to follow which images [N] are of it."""
        path = [accumulated(feature).flatten(1) for feature in segment.features]
        sizes, steps, along, aside = path_lengths(path)
        length, net = steps.sum(0), along[-1]
        moves = length > 0
        self.images += path[0].shape[0]
        self.moving += int(moves.sum())
        self.straight += float((net[moves] / length[moves]).sum())
        self.net += float(net.sum())
        self.sizes = _plus(self.sizes, sizes)
        self.steps = _plus(self.steps, steps)
        self.along = _plus(self.along, along)
        self.aside = _plus(self.aside, aside)
        for label, images in chosen.items():
            sums = [feature[images].sum(0) for feature in path]
            known = self.means.get(label)
            self.means[label] = sums if known is None else [a.add_(b) for a, b in zip(known, sums, strict=True)]
            self.counts[label] = self.counts.get(label, 0) + int(images.sum())

    def paths(self, names: Sequence[str], labels: Sequence[int | None]) -> StagePaths:
        """What the sums say, with the plane of the classes' mean paths."""
        assert self.sizes is not None and self.steps is not None and self.along is not None and self.aside is not None
        steps = _shares(self.steps, self.images)
        scale = float(self.sizes.mean()) / self.images
        means = torch.stack([torch.stack(self.means[label]) / self.counts[label] for label in labels])
        plane = principal_plane(means)
        drawn = plane.coordinates / scale if scale > 0 else plane.coordinates
        return StagePaths(
            points=tuple(names[number] for number in self.points),
            carried=self.carried,
            shape=self.shape,
            images=self.images,
            scale=scale,
            steps=steps,
            length=sum(steps),
            net=self.net / self.images,
            straightness=self.straight / self.moving if self.moving and len(steps) > 1 else None,
            along=_shares(self.along, self.images),
            aside=_shares(self.aside, self.images),
            labels=tuple(labels),
            counts=tuple(self.counts[label] for label in labels),
            # Adding 0 turns a -0 into a 0.
            coordinates=tuple(
                tuple((round(x, _DIGITS) + 0.0, round(y, _DIGITS) + 0.0) for x, y in path) for path in drawn.tolist()
            ),
            explained=plane.explained,
            visible=plane.visible,
        )


def path_lengths(path: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lengths of the paths of N images through points [N, D] each, as float64 on the CPU.

    Returns:
        ||Y_l|| [points, N]; ||Y_{l+1} - Y_l|| [points - 1, N]; how far each point lies along the straight line from the first
        point to the last [points, N], and how far from that line [points, N].
    """
    first = path[0]
    chord = path[-1] - first
    net = _norms(chord)
    # A path that comes back has no line; every point is then only away from its beginning.
    line = chord / torch.where(net > 0, net, 1.0).unsqueeze(1)
    along, aside = [], []
    for point in path:
        way = point - first
        far = (way * line).sum(1)
        along.append(far)
        aside.append(_norms(way - far.unsqueeze(1) * line))
    # The ends lie on the line by definition, not only up to rounding.
    along[-1], aside[-1] = net, torch.zeros_like(net)
    sizes = [_norms(point) for point in path]
    steps = [_norms(after - before) for before, after in pairwise(path)]
    return _stacked(sizes), _stacked(steps), _stacked(along), _stacked(aside)


def images_of(targets: Tensor | None, images: int, follow: Sequence[int] | None) -> dict[int | None, Tensor]:
    """Which images [N] (bool, on the targets' device) are of which class; all are of None where there are no targets.

    Raises:
        DataError: the targets are no class labels.
    """
    if targets is None:
        return {None: torch.ones(images, dtype=torch.bool)}
    if targets.shape != (images,) or targets.is_floating_point() or targets.is_complex():
        raise DataError(
            f"flow_paths() needs one integer label an image, and was given targets of shape {list(targets.shape)} and type "
            f"{targets.dtype} for {images} images; pass (input, label) pairs, or inputs alone for one path of all images"
        )
    labels = targets.unique().tolist() if follow is None else follow
    return {int(label): targets == label for label in labels if bool((targets == label).any())}


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return norms


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows)).cpu().double()


def _plus(total: Tensor | None, by_image: Tensor) -> Tensor:
    added = by_image.sum(1)
    return added if total is None else total + added


def _shares(total: Tensor, images: int) -> tuple[float, ...]:
    return tuple((total / images).tolist())
