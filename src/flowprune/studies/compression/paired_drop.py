"""How much accuracy a smaller model has lost on the same images, and how much it may have lost at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from flowprune.errors import DataError, ModelError, counted

CONFIDENCE = 0.95
QUANTILE = NormalDist().inv_cdf(CONFIDENCE)
"""Of the normal distribution, at that confidence and to one side."""


@dataclass(frozen=True)
class Drop:
    """What a model has lost against another one, in percentage points of the same images.

    Attributes:
        points: right answers lost less right answers won, in per cent of the images; below zero where more were won.
        at_most: the upper bound of the true loss, at 95 % confidence to one side.
        images: how many were looked at.
        lost, won: how many only the model before, and only the model after, answered rightly.
    """

    points: float
    at_most: float
    images: int
    lost: int
    won: int

    def __str__(self) -> str:
        return f"{self.points:.2f} points lost, at most {self.at_most:.2f} (95 %, {counted(self.images, 'image')})"


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Drop:
    """The loss from right answers (True) to the same images, [images] each.

    Raises:
        ModelError: they are not of the same images.
    """
    if before.shape != after.shape:
        raise ModelError(
            f"evaluate answered for {counted(len(before), 'image')} first and for {len(after)} now; use the same ones"
        )
    images, lost, won = len(before), int((before & ~after).sum()), int((after & ~before).sum())
    return Drop(100 * (lost - won) / images, 100 * upper_bound(lost, won, images), images, lost, won)


def upper_bound(lost: int, won: int, images: int) -> float:
    """The largest true difference of two shares that a one-sided test at 95 % does not rule out.

    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design, Statistics in
    Medicine 17, 1998, section 3: the difference d is ruled out where the score ``(lost - won - n d) / sqrt(n (2 q + d (1 - d)))``
    is below the normal quantile, with q the likeliest share of images that only the model after gets right, were d the
    truth. It holds for few images, and where the two models never differ, when Wald's interval would have no width.

    Args:
        lost, won: images that only the model before, or after, gets right.
        images: all of them.
    """

    def score(difference: float) -> float:
        linear = -lost - won + (2 * images - lost + won) * difference
        constant = -won * difference * (1 - difference)
        q = (math.sqrt(linear**2 - 8 * images * constant) - linear) / (4 * images)
        variance = images * (2 * q + difference * (1 - difference))
        return (lost - won - images * difference) / math.sqrt(max(variance, 1e-300))

    low, high = (lost - won) / images, 1.0
    for _ in range(60):  # the score falls as the difference grows
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > -QUANTILE else (low, middle)
    return high


def fewest_images(points: float) -> int:
    """How many images it takes at least to say that no more is lost: where two models never differ, and not one fewer.

    Args:
        points: of accuracy, above 0.
    """
    share = min(points / 100, 1.0)
    return max(1, math.ceil(QUANTILE**2 * (1 - share) / share - 1e-9))


def check_resolvable(points: float, images: int, advice: str = "give more of them, or allow a larger drop") -> None:
    """Refuse a drop that so few images cannot tell from none.

    Args:
        points: that may be lost.
        images: that will be looked at.
        advice: what to do about it.

    Raises:
        DataError: they are too few.
    """
    needed = fewest_images(points)
    if images < needed:
        raise DataError(
            f"a drop of {counted(points, 'point')} cannot be told from none by {counted(images, 'validation image')}: a model "
            f"that answers all of them alike may still lose {100 * upper_bound(0, 0, max(1, images)):.2f} (95 %); it takes at "
            f"least {needed}; {advice}"
        )
