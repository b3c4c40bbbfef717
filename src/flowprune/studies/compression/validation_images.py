"""Which images choose, and which are kept for the last line."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from flowprune.errors import DataError, counted
from flowprune.studies.compression.paired_drop import check_resolvable, fewest_images
from flowprune.training import Data
from flowprune.training.splits import drawn, split_off

Half = Literal["train", "test"]
MOST = 5000
"""Validation images where nothing is said: a fifth of the training images, or half of the test images, and no more than these."""
FEW = 1000
"""Of them for the many models of a scan."""


def few_of(data: Data) -> Data:
    """The data with so many of its test images as a scan looks at."""
    return replace(data, test=drawn(data.test, min(FEW, len(data.test)), 0))


def with_validation(
    data: Data, half: Half, count: int | None, seed: int, max_drop: float | None = None
) -> tuple[Data, Data]:
    """The data to train and to choose by, whose test images are the validation images; and that of the last line.

    Args:
        data: a data set with its two halves.
        half: which one the validation images are drawn from; they are taken from it.
        count: how many; the usual number if None.
        seed: draws them.
        max_drop: percentage points that they have to tell from none.

    Raises:
        DataError: there are not so many, or they are too few.
    """
    whole = data.train if half == "train" else data.test
    usual = min(MOST, len(whole) // (5 if half == "train" else 2))
    wanted = usual if count is None else count
    kind = "training" if half == "train" else "test"
    if not 1 <= wanted < len(whole):
        raise DataError(
            f"{counted(wanted, 'validation image')} cannot be taken from the {counted(len(whole), f'{kind} image')} of "
            f"{data.name}; ask for 1 to {len(whole) - 1} with --validation-images"
        )
    if max_drop is not None:
        needed = fewest_images(max_drop)
        enough = f"hold out as many with --validation-images (of {counted(len(whole), f'{kind} image')})"
        check_resolvable(
            max_drop,
            wanted,
            enough if needed < len(whole) else f"{data.name} has {counted(len(whole), f'{kind} image')} in all",
        )
    chosen, others = split_off(whole, wanted, seed)
    if half == "train":
        return replace(data, train=others, test=chosen), data
    return replace(data, test=chosen), replace(data, test=others)
