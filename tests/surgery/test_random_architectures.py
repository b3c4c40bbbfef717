"""No wrong model comes out: random architectures, pruned under random budgets, equal their silenced twins."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_architectures import architecture
from twin_property import Verdict, verdict

pytestmark = pytest.mark.filterwarnings(
    "ignore::flowprune.errors.FlowpruneWarning"
)  # of many of them nothing may leave

CASES, PARTS = 500, 10


def judged(random: Random) -> Verdict:
    model, _ = architecture(random)
    return verdict(model, random)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_architectures_equal_their_silenced_twins(part: int) -> None:
    """The seeds are those of ``benchmarks/random_architectures.py``: a case that fails there is repeated by its number."""
    share = CASES // PARTS
    verdicts = {seed: judged(Random(seed)) for seed in range(part * share, (part + 1) * share)}
    assert {seed: found.failure for seed, found in verdicts.items() if found.failure} == {}
    assert sum(found.empty for found in verdicts.values()) <= share // 10


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(random=st.randoms(use_true_random=False))
def test_architectures_that_hypothesis_draws_equal_their_silenced_twins(random: Random) -> None:
    """What fails here, hypothesis makes smaller."""
    assert judged(random).failure is None
