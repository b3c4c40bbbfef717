"""Counts before the cut equal counts after it; the search never ends above its target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowprune.models as models
from flowprune.engine.allocation import Budget, Rounding, fit_channels, fit_count, rank
from flowprune.engine.measuring import measure
from flowprune.engine.planning import CoupledModel

IMAGES = torch.randn(2, 3, 32, 32)


@pytest.fixture(scope="module")
def coupled() -> CoupledModel:
    return CoupledModel.of(models.create("resnet20"), IMAGES, ())


def test_dense_counts_are_the_literature_s(coupled: CoupledModel) -> None:
    nothing = np.zeros(len(coupled.coupling.classes), dtype=np.int64)
    assert coupled.macs.count(nothing) == 2 * 40_551_040
    assert coupled.params.count(nothing) == 269_722
    assert coupled.macs.count(nothing) == 2 * measure(models.create("resnet20"), IMAGES).macs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.12, 1.0),
    kind=st.sampled_from(["macs", "params"]),
    scope=st.sampled_from(["global", "local"]),
)
def test_the_result_is_never_above_the_target_and_close_below(
    coupled: CoupledModel, seed: int, share: float, kind: str, scope: str
) -> None:
    random = np.random.default_rng(seed)
    scores = [random.random(group.channels) for group in coupled.coupling.groups]
    ranking = rank(coupled.coupling, scores, 0.9)
    count = coupled.macs.count if kind == "macs" else coupled.params.count
    rounding = Rounding(coupled.coupling, ranking.limits)
    lost = fit_count(Budget(kind, share=share, scope=scope), ranking, rounding, count).lost  # type: ignore[arg-type]
    dense = count(np.zeros_like(lost))
    assert 0.995 * share * dense <= count(lost) <= share * dense
    assert (lost <= ranking.limits).all() and (lost >= 0).all()


def test_the_lowest_scores_leave_first(coupled: CoupledModel) -> None:
    random = np.random.default_rng(0)
    scores = [random.random(group.channels) for group in coupled.coupling.groups]
    ranking = rank(coupled.coupling, scores, 1.0)
    rounding = Rounding(coupled.coupling, ranking.limits)
    lost = fit_count(Budget("params", share=0.6), ranking, rounding, coupled.params.count).lost
    gone = np.concatenate([ranking.scores[i][:n] for i, n in enumerate(lost)])
    kept = np.concatenate(
        [ranking.scores[i][n:limit] for i, (n, limit) in enumerate(zip(lost, ranking.limits, strict=True))]
    )
    # all but the last steps, which look for the closest fit, follow the ranking
    assert np.quantile(gone, 0.95) <= np.quantile(kept, 0.05)


def test_a_share_of_the_channels_is_taken_from_every_group(coupled: CoupledModel) -> None:
    scores = [np.arange(group.channels, dtype=float) for group in coupled.coupling.groups]
    ranking = rank(coupled.coupling, scores, 0.9)
    for share in (1.0, 0.75, 0.5, 0.3):
        rounding = Rounding(coupled.coupling, ranking.limits)
        lost = fit_channels(np.full(len(ranking.limits), share), ranking, rounding).lost
        for groups, n in zip(coupled.coupling.classes, lost.tolist(), strict=True):
            channels = coupled.coupling.groups[groups[0]].channels
            assert channels - n == int(share * channels + 1e-9)
