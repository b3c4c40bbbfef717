"""The search for the smallest budget that passes, where larger ones need not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowprune.studies.compression.smallest_passing import FINEST, next_share, smallest_passing


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(1, 100)), st.integers(1, 12))
def test_the_smallest_of_those_that_passed_is_kept_whatever_the_order(passing: set[int], trials: int) -> None:
    tried: dict[float, bool] = {}
    for _ in range(trials):
        share = next_share(tried)
        if share is None:
            break
        assert 0 < share < 1 and share not in tried
        tried[share] = round(100 * share) in passing
    passed = [share for share, good in tried.items() if good]
    assert smallest_passing(tried) == (min(passed) if passed else None)
    assert smallest_passing(dict(reversed(tried.items()))) == smallest_passing(tried)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.95))
def test_a_clean_edge_is_found_as_finely_as_asked(edge: float) -> None:
    tried: dict[float, bool] = {}
    while (share := next_share(tried)) is not None:
        tried[share] = share >= edge
    best = smallest_passing(tried)
    assert best is None or edge <= best <= edge + FINEST
    assert best is not None or edge > 1 - FINEST
    assert len(tried) <= 6
