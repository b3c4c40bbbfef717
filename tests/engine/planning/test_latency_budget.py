"""A budget of time: the search against a clock that never errs and one that does, and once against the real clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import flowprune.models as models
from flowprune.engine.allocation import Plan
from flowprune.engine.measuring import measure
from flowprune.engine.measuring.latency import Timing, time_in_turns
from flowprune.engine.planning import latency_budget as latency
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import BudgetError
from flowprune.methods.allocators import rate_distortion
from flowprune.methods.allocators._distortion.curves import distortion_curves
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune, prune_iteratively

IMAGES = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock by which a forward takes a nanosecond for every multiply-accumulate; returns the MACs of all it was asked to time."""
    asked: list[int] = []

    def timed(networks: Sequence[nn.Module], inputs: Any, turns: int = 1) -> list[Timing]:
        counts = [measure(network, inputs).macs for network in networks]
        asked.extend(counts)
        return [Timing((count * 1e-9,) * turns) for count in counts]

    monkeypatch.setattr(latency, "time_in_turns", timed)
    return asked


def _chain() -> nn.Sequential:
    """Quickly planned."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3), nn.Flatten()
    )


@pytest.mark.parametrize("share", [0.15, 0.5, 0.93])
def test_the_slowest_candidate_that_is_fast_enough_is_found(by_macs: list[int], share: float) -> None:
    model = models.create("resnet8")
    dense = measure(model, IMAGES).macs
    for asked in (share, f"{share * dense / 1e6}ms"):
        by_macs.clear()
        made = plan(model, IMAGES, importance=L2(), latency=asked)
        assert (share - 2 * latency.CLOSE_ENOUGH) * dense <= made.macs[1] <= share * dense + 1
        assert len(by_macs) < 30, "a bisection, not a sweep"
        assert made.latency["reached"] == pytest.approx(made.macs[1] / 1e6)
        assert made.latency["dense"] == pytest.approx(dense / 1e6)
        assert "latency=" in made.asked and "beside the dense model's" in str(made)
        assert measure(prune(model, made), IMAGES).macs == made.macs[1]
    assert Plan.from_dict(made.as_dict()) == made


def test_an_allocator_shares_out_every_candidate_and_looks_at_the_network_once(
    by_macs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def counted(problem: Any, *args: Any, **options: Any) -> Any:
        looked.append(problem.target)
        return distortion_curves(problem, *args, **options)

    monkeypatch.setattr(rate_distortion, "distortion_curves", counted)
    model = _chain()
    allocator = rate_distortion.RateDistortion([torch.randn(2, 3, 16, 16)], points=2)
    made = plan(model, IMAGES, importance=L2(), latency=0.5, allocator=allocator)
    assert 0.4 * made.macs[0] <= made.macs[1] <= 0.5 * made.macs[0] and len(looked) == 1
    alone = plan(model, IMAGES, importance=L2(), macs=str(made.macs[1]), allocator=allocator)
    assert alone.removed == made.removed and len(looked) == 2, "and what it is asked for under MACs is the same"


def test_in_steps_macs_lead_there_and_the_last_step_is_timed(by_macs: list[int]) -> None:
    model, seen = _chain(), list[int]()
    small = prune_iteratively(
        model,
        IMAGES,
        steps=3,
        finetune=lambda half, step: seen.append(measure(half, IMAGES).macs),
        importance=L2(),
        latency=0.3,
    )
    dense, reached = measure(model, IMAGES).macs, measure(small, IMAGES).macs
    assert dense > seen[0] > seen[1] > reached
    assert 0.25 * dense < reached <= 0.3 * dense + 1
    assert [made["asked"].partition("=")[0] for made in lineage_of(small).plans] == ["macs", "macs", "latency"]


def test_what_is_fast_enough_already_stays_whole(by_macs: list[int]) -> None:
    made = plan(models.create("resnet8"), IMAGES, importance=L2(), latency="1s")
    assert made.is_empty and made.latency["reached"] < 1000
    assert plan(models.create("resnet8"), IMAGES, importance=L2(), latency=1.0).is_empty


def test_the_impossible_is_one_line_with_all_three_times(by_macs: list[int]) -> None:
    model = models.create("resnet8")
    for asked in ("1ns", 0.0001):
        with pytest.raises(
            BudgetError, match=r"cannot be met on this machine: .* were asked for, the dense model takes"
        ) as caught:
            plan(model, IMAGES, importance=L2(), latency=asked)
        assert "smallest model the constraints allow" in str(caught.value) and "\n" not in str(caught.value)


def test_a_candidate_that_fails_its_longer_timing_makes_room_for_a_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.create("resnet8")
    dense = measure(model, IMAGES).macs

    def flattering(networks: Sequence[nn.Module], inputs: Any, turns: int = 1) -> list[Timing]:
        """Short timings make the small models look a tenth faster than they are."""
        counts = [float(measure(network, inputs).macs) for network in networks]
        if turns != latency.FINAL_TURNS:
            counts[1:] = [0.9 * count for count in counts[1:]]
        return [Timing((count * 1e-9,) * turns) for count in counts]

    monkeypatch.setattr(latency, "time_in_turns", flattering)
    made = plan(model, IMAGES, importance=L2(), latency=0.5)
    assert 0.3 * dense <= made.macs[1] <= 0.5 * dense


def test_the_importance_is_asked_once_for_all_candidates(by_macs: list[int]) -> None:
    class Counted(L2):
        calls = 0

        def __call__(self, model: nn.Module, inputs: Any, groups: Any) -> list[torch.Tensor]:
            Counted.calls += 1
            return super().__call__(model, inputs, groups)

    made = plan(models.create("resnet8"), IMAGES, importance=Counted(), latency=0.5)
    assert Counted.calls == 1 and made.importance == "Counted"


class Slow(nn.Module):
    """Sleeps for as long as it is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 40), nn.Linear(40, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        time.sleep(1e-4 * x.shape[1])
        return self.last(x)


def test_real_time_is_measured_in_turns() -> None:
    model = Slow().train()
    made = plan(model, torch.zeros(2, 4), importance=L2(), latency=0.6)
    assert 0.15 <= made.latency["share"] <= 0.6 and made.latency["runs"] == latency.FINAL_TURNS
    assert made.latency["batch"] == 2 and made.macs[1] <= 0.7 * made.macs[0]
    assert model.training
    low, high = made.latency["quartiles"]
    assert low <= made.latency["reached"] <= high


def test_timing_leaves_modes_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    model[1].eval()
    before = torch.get_rng_state()
    (timing,) = time_in_turns([model], torch.zeros(1, 3), turns=4)
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.equal(before, torch.get_rng_state())
    assert len(timing.samples) == 4 and timing.quartiles[0] <= timing.median <= timing.quartiles[1]
    assert Timing((2.0, 4.0, 9.0)).share_of(Timing((4.0, 4.0, 10.0))) == 0.9
