"""Paths in a space of very many dimensions, drawn in the plane: principal components from the points' distances alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_COLUMNS = 1 << 20  # so many elements of a point enter the products at once, in float64
_UNSEEN = 1e-3  # of the farthest point's coordinate: less is no way and no difference


@dataclass(frozen=True)
class Plane:
    """Paths in the plane of their two principal components.

    Attributes:
        coordinates: float64 [paths, points, 2], centred.
        explained: the share of the points' variance that each of the two axes shows.
        visible: the paths' length in the plane over their length in all dimensions; 1 where they have no length.
    """

    coordinates: Tensor
    explained: tuple[float, float]
    visible: float


def principal_plane(paths: Tensor) -> Plane:
    """Project paths onto the two directions along which their points vary most.

    With X the points less their mean, one a row, the coordinates are the leading eigenvectors of ``X X^T`` times the roots of
    their eigenvalues: the principal components of X, and at the same time the classical multidimensional scaling of the points'
    distances. So they depend on the distances between the points and on nothing else. The basis a network happens to have
    learned its features in does not matter, which is what allows two networks' pictures to stand side by side.

    An axis has no sign of its own: it points where the paths go on average from their first point to their last; where they go
    nowhere, towards the first of its farthest points.

    Args:
        paths: [paths, points, dimensions], of any floating type; at least one of each.
    """
    count, length, width = paths.shape
    points = paths.reshape(count * length, width)
    gram = torch.zeros(len(points), len(points), dtype=torch.float64)
    for columns in points.split(max(1, _COLUMNS // len(points)), dim=1):
        centred = columns.to("cpu", torch.float64)
        centred = centred - centred.mean(0)
        gram += centred @ centred.T
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    coordinates = torch.zeros(len(points), 2, dtype=torch.float64)
    shown = min(2, len(points))
    coordinates[:, :shown] = vectors[:, :shown] * values[:shown].sqrt()
    coordinates = _oriented(coordinates.reshape(count, length, 2))
    total = float(values.sum())
    explained = [float(value) / total if total > 0 else 0.0 for value in values[:shown]]
    first, second = [*explained, 0.0][:2]
    return Plane(coordinates, (first, second), _visible(coordinates, gram.reshape(count, length, count, length)))


def _oriented(coordinates: Tensor) -> Tensor:
    for axis in range(2):
        along = coordinates[:, :, axis]
        way = (along[:, -1] - along[:, 0]).mean()
        sizes = along.flatten().abs()
        # The features are in single precision, far from the origin: a way, or a difference of two sizes, that nobody sees in a
        # picture may be rounding, and would leave the sign to chance.
        extreme = along.flatten()[(sizes >= (1 - _UNSEEN) * sizes.max()).nonzero()[0, 0]]
        if (way if way.abs() > _UNSEEN * extreme.abs() else extreme) < 0:
            coordinates[:, :, axis] = -along
    return coordinates


def _visible(coordinates: Tensor, gram: Tensor) -> float:
    """Lengths of the steps in the plane over those in all dimensions: |x - y|^2 = x.x - 2 x.y + y.y."""
    paths = torch.arange(len(coordinates))
    own = gram[paths, :, paths, :]  # [paths, points, points]
    squares = own.diagonal(dim1=1, dim2=2)
    between = own.diagonal(offset=1, dim1=1, dim2=2)
    whole = float((squares[:, 1:] - 2 * between + squares[:, :-1]).clamp(min=0).sqrt().sum())
    seen = float(torch.linalg.vector_norm(coordinates.diff(dim=1), dim=2).sum())
    return min(1.0, seen / whole) if whole > 0 else 1.0
