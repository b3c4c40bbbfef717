"""Labels: which channel of the network each index of each tensor dimension is.

A tensor carries *blocks*. A block is one dimension, or several dimensions together after a reshape split one, with an integer
array of labels of that shape: entry (i, j) names the channel that sits at index (i, j) of those dimensions. Dimensions in no
block (batch, positions) carry nothing that could be pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Block:
    """Labels over one or more dimensions of a tensor. Nobody changes one; it is not declared frozen, because making one would take
    three times as long, and thousands are made.

    Attributes:
        dimensions: the tensor's dimensions, ascending; one an axis of ``labels``.
        labels: the labels; its shape is the tensor's size in those dimensions.
        inner: the axis of ``labels`` that is pruned where there are several: every row along it keeps the same number. It is the
            last one after a split, and moves with its dimension.
    """

    dimensions: tuple[int, ...]
    labels: Array
    inner: int = -1

    @property
    def inner_dimension(self) -> int:
        """The tensor's dimension that ``inner`` stands for."""
        return self.dimensions[self.inner]

    def rows(self) -> Array:
        """The labels as [rows, n], n along the inner axis."""
        return np.moveaxis(self.labels, self.inner, -1).reshape(-1, self.labels.shape[self.inner])

    def moved(self, places: Sequence[int]) -> Block:
        """The block after dimension d of the tensor became dimension ``places[d]``."""
        new = [places[dimension] for dimension in self.dimensions]
        order = np.argsort(new, kind="stable")
        if len(new) == 1:
            return Block((new[0],), self.labels)
        inner = order.tolist().index(self.inner % len(new))
        return Block(tuple(new[i] for i in order), self.labels.transpose(order), inner)

    def over(self, dimensions: Sequence[int], shape: Sequence[int]) -> Array:
        """The labels broadcast over ``dimensions`` (a superset, ascending), which have the sizes ``shape``."""
        view = [size if dim in self.dimensions else 1 for dim, size in zip(dimensions, shape, strict=True)]
        return np.broadcast_to(self.labels.reshape(view), tuple(shape))


Layout = tuple[Block, ...]
"""The blocks of one tensor; no dimension is in two of them."""


def block_at(layout: Layout, dimension: int) -> Block | None:
    """The block that holds ``dimension``, if one does."""
    return next((block for block in layout if dimension in block.dimensions), None)


def without(layout: Layout, blocks: Iterable[Block]) -> Layout:
    """The layout less some of its blocks."""
    gone = {id(block) for block in blocks}
    return tuple(block for block in layout if id(block) not in gone)


def parted(layout: Layout, dimension: int) -> tuple[Block | None, Layout]:
    """The block that holds ``dimension``, if one does, and the others."""
    block = block_at(layout, dimension)
    return block, layout if block is None else without(layout, [block])


def reduced(dimensions: Sequence[int], labels: Array) -> Block | None:
    """A block with the axes dropped along which its labels do not vary; None if none is left."""
    if not labels.size:  # a slice that a cut has left nothing of
        return Block(tuple(dimensions), labels)
    kept: list[int] = []
    for axis, dimension in enumerate(dimensions):
        first = labels.take([0], axis=axis)
        if labels.shape[axis] > 1 and not np.array_equal(np.broadcast_to(first, labels.shape), labels):
            kept.append(dimension)
    if not kept:
        return None
    index = tuple(slice(None) if dimension in kept else 0 for dimension in dimensions)
    return Block(tuple(kept), np.ascontiguousarray(labels[index]))


def survivors(block: Block, removed: NDArray[np.bool_]) -> Array | None:
    """A block's labels without the removed ones, as an array of as many axes; None if what stays is not rectangular.

    Args:
        block: any number of dimensions; rows along its inner axis shrink, and rows that lose everything go.
        removed: for every label, whether it leaves.
    """
    gone = removed[block.labels]
    if not gone.any():
        return block.labels
    if block.labels.ndim == 1:
        return block.labels[~gone]
    kept = _rectangle(np.moveaxis(block.labels, block.inner, -1), removed)
    return None if kept is None else np.moveaxis(kept, -1, block.inner)


def _rectangle(labels: Array, removed: NDArray[np.bool_]) -> Array | None:
    if labels.ndim == 1:
        return labels[~removed[labels]]
    parts: list[Array] = []
    for row in labels:
        kept = _rectangle(row, removed)
        if kept is None:
            return None
        if kept.size:
            parts.append(kept)
    if not parts:
        return np.empty((0,) * labels.ndim, dtype=np.int64)
    if any(part.shape != parts[0].shape for part in parts):
        return None
    return np.stack(parts)


def segments(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split a reshape into the smallest runs of source and target dimensions with equal products of sizes.

    Sizes of 1 join the run that is open, so that every dimension is in exactly one run.

    >>> segments((2, 6, 4), (2, 3, 2, 4))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        left: list[int] = []
        right: list[int] = []
        a = b = 1
        if i < len(source):
            left, a, i = [i], source[i], i + 1
        if j < len(target):
            right, b, j = [j], target[j], j + 1
        while a != b:
            if a < b and i < len(source):
                left.append(i)
                a *= source[i]
                i += 1
            elif j < len(target):
                right.append(j)
                b *= target[j]
                j += 1
            else:
                left.append(i)
                a *= source[i]
                i += 1
        runs.append((left, right))
    return runs


def components(count: int, left: Array, right: Array) -> Array:
    """What must leave together, over label pairs: the smallest label of each label's connected component.

    Args:
        count: labels are 0 .. count - 1.
        left, right: [pairs]: labels that are one channel.

    Every round hooks the larger of both ends' roots onto the smaller one, then shortens all paths; the number of rounds grows with
    the logarithm of the longest chain, and each is a few numpy calls whatever the number of channels. The second half of the pairs
    comes after the first, because it is mostly what the training pass says again. SciPy's ``connected_components`` wants a sparse
    matrix first, and takes about twice as long on the labels of a ResNet-50 or a ViT.
    """
    root = np.arange(count, dtype=np.int64)
    middle = len(left) // 2
    for half in (slice(None, middle), slice(middle, None)):
        root = _hooked(root, left[half], right[half])
    return root


def classes_of(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The numbers 0 .. count - 1 in classes: those together that pairs connect."""
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    classes: dict[int, list[int]] = {}
    for number, root in enumerate(components(count, left, right).tolist()):
        classes.setdefault(root, []).append(number)
    return list(classes.values())


def _hooked(root: Array, left: Array, right: Array) -> Array:
    while len(left):
        a, b = root[left], root[right]
        differ = a != b
        if not differ.any():
            break
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root = shorter
    return root
