"""The bound of a paired difference: against a likelihood maximised by search, and by the coverage that it has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import multinomial, norm

from flowprune.errors import DataError, ModelError
from flowprune.studies.compression.paired_drop import check_resolvable, fewest_images, paired_drop, upper_bound


def bound_by_search(lost: int, won: int, images: int) -> float:
    """The same test with its nuisance parameter found by maximising the likelihood of what was seen."""

    def score(difference: float) -> float:
        def unlikelihood(only_after: float) -> float:
            shares = [only_after + difference, only_after, 1 - 2 * only_after - difference]
            counts = [lost, won, images - lost - won]
            return -sum(n * math.log(max(p, 1e-300)) for n, p in zip(counts, shares, strict=True) if n)

        most = (1 - difference) / 2
        q = minimize_scalar(unlikelihood, bounds=(0, most), method="bounded", options={"xatol": 1e-12}).x
        variance = 2 * q + difference - difference**2
        return float((lost - won - images * difference) / math.sqrt(images * variance) + norm.ppf(0.95))

    low = max((lost - won) / images, 0.0) + 1e-9
    return float(brentq(score, low, 1 - 1e-9))


@pytest.mark.parametrize(("lost", "won", "images"), [(3, 1, 50), (12, 5, 200), (7, 7, 300), (0, 0, 80), (4, 0, 60)])
def test_the_bound_is_that_of_the_likeliest_shares(lost: int, won: int, images: int) -> None:
    assert upper_bound(lost, won, images) == pytest.approx(bound_by_search(lost, won, images), abs=2e-5)


@pytest.mark.parametrize(("after_only", "before_only"), [(0.02, 0.05), (0.0, 0.03), (0.1, 0.1)])
def test_the_truth_is_below_it_in_ninety_five_of_a_hundred_draws(after_only: float, before_only: float) -> None:
    images = 60
    seen = np.array([(lost, won, images - lost - won) for lost in range(25) for won in range(25)])
    chances = multinomial.pmf(seen, images, [before_only, after_only, 1 - before_only - after_only])
    likely = chances > 1e-7
    covered = sum(
        chance
        for (lost, won, _), chance in zip(seen[likely].tolist(), chances[likely], strict=True)
        if upper_bound(lost, won, images) >= before_only - after_only
    )
    assert chances[likely].sum() > 0.999
    assert covered >= 0.93  # a score test's level is near its name, not above it for every truth


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.data())
def test_it_lies_above_what_was_seen_and_grows_with_every_loss(images: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, images - 1))
    won = data.draw(st.integers(0, images - 1 - lost))
    found = upper_bound(lost, won, images)
    assert (lost - won) / images <= found <= 1
    assert upper_bound(lost + 1, won, images) > found


@pytest.mark.parametrize("points", [0.1, 0.5, 1, 3, 99])
def test_the_fewest_images_are_enough_and_one_fewer_are_not(points: float) -> None:
    needed = fewest_images(points)
    assert 100 * upper_bound(0, 0, needed) <= points + 1e-9
    assert needed == 1 or 100 * upper_bound(0, 0, needed - 1) > points
    check_resolvable(points, needed)
    if needed > 1:
        with pytest.raises(DataError, match=f"at least {needed};"):
            check_resolvable(points, needed - 1)


def test_a_drop_counts_what_was_lost_and_what_was_won() -> None:
    before, after = np.array([True] * 8 + [False] * 2), np.array([True] * 5 + [False] * 3 + [True] * 1 + [False])
    drop = paired_drop(before, after)
    assert (drop.lost, drop.won, drop.images) == (3, 1, 10) and drop.points == pytest.approx(20)
    assert drop.at_most > drop.points
    with pytest.raises(ModelError, match="10 images first and for 9 now"):
        paired_drop(before, after[:9])
