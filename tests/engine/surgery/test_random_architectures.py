"""No wrong model comes out: random architectures, pruned under random budgets, equal their silenced twins, and without what is dead
they are the dense model."""

from __future__ import annotations

from random import Random

import pytest
from dense_property import DenseVerdict, dense_verdict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_architectures import architecture
from thoroughness import times
from twin_property import Verdict, verdict

pytestmark = pytest.mark.filterwarnings(
    "ignore::flowprune.errors.FlowpruneWarning"
)  # of many of them nothing may leave

SHARE, PARTS = 25, times(quick=5, thorough=20)


def judged(random: Random) -> tuple[Verdict, DenseVerdict]:
    model, _ = architecture(random)
    return verdict(model, random), dense_verdict(model, random)


def failures(random: Random) -> list[str]:
    return [found.failure for found in judged(random) if found.failure]


@pytest.mark.parametrize("part", range(PARTS))
def test_random_architectures_equal_their_twins_and_without_what_is_dead_the_dense_model(part: int) -> None:
    """The seeds are those of ``benchmarks/random_architectures/run.py``: a case that fails there is repeated by its number."""
    verdicts = {seed: judged(Random(seed)) for seed in range(part * SHARE, (part + 1) * SHARE)}
    wrong = {seed: [found.failure for found in both if found.failure] for seed, both in verdicts.items()}
    assert {seed: failed for seed, failed in wrong.items() if failed} == {}
    assert sum(twin.empty for twin, _ in verdicts.values()) <= SHARE // 10
    assert sum(twin.undefined is not None for twin, _ in verdicts.values()) <= SHARE // 20
    assert sum(dense.removed > 0 for _, dense in verdicts.values()) >= SHARE // 6
    assert sum(dense.folded > 0 for _, dense in verdicts.values()) >= SHARE // 25


@settings(
    max_examples=times(quick=20, thorough=40),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
@given(random=st.randoms(use_true_random=False))
def test_architectures_that_hypothesis_draws_equal_their_silenced_twins(random: Random) -> None:
    """What fails here, hypothesis makes smaller."""
    assert failures(random) == []
