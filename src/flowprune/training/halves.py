"""What the reader of a data set gives: its two halves, and what their images and labels are."""

from __future__ import annotations

from typing import NamedTuple

from flowprune.training.splits import Split


class Halves(NamedTuple):
    """A data set as read.

    Attributes:
        train, test: the images.
        classes: how many there are.
        shape: (channels, height, width) of an image.
        names: of the classes, in the order of their numbers; empty where nobody said.
    """

    train: Split
    test: Split
    classes: int
    shape: tuple[int, int, int]
    names: tuple[str, ...] = ()
