"""The controller against simulated plants: its strength is bounded, falls after an overshoot, and comes to rest."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowprune.cli import main
from flowprune.errors import FlowpruneWarning
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.strength.control import LARGEST, Control

OFTEN = settings(max_examples=200, deadline=None, derandomize=True, database=None)
SHARES = st.lists(st.floats(0, 1), max_size=60)
TARGETS = st.floats(0.05, 0.95)


def driven(control: Control, shares: list[float]) -> list[float]:
    strengths = []
    for share in shares:
        control.epoch_end(share)
        strengths.append(control.strength)
    return strengths


@OFTEN
@given(SHARES, TARGETS, st.integers(1, 300))
def test_whatever_is_measured_the_strength_stays_between_nothing_and_the_bound(shares, target, epochs):
    assert all(0 < strength <= LARGEST for strength in driven(Control(epochs=epochs, target=target), shares))


def test_a_target_out_of_reach_ends_at_the_bound_and_not_beyond():
    strengths = driven(Control(epochs=500, target=0.5), [0.1] * 500)
    assert strengths[-1] == max(strengths) == LARGEST == 20


@OFTEN
@given(SHARES, TARGETS)
def test_after_an_overshoot_the_strength_falls_every_epoch_and_soon_far(history, target):
    control = Control(epochs=100, target=target)
    driven(control, [0.0] * 10 + history)
    before = control.strength
    fallen = [before, *driven(control, [1.0] * 10)]
    assert all(later < earlier for earlier, later in pairwise(fallen))
    assert fallen[-1] < before / 30


@OFTEN
@given(
    target=TARGETS,
    meets_at=st.floats(0.2, 18),
    steepness=st.floats(0.3, 3),
    slowness=st.floats(0, 0.5),
)
def test_a_share_that_follows_the_strength_settles_at_the_target(target, meets_at, steepness, slowness):
    """The share goes towards 1 - exp(-(c k)^p) of the strength k, c such that it is the target at ``meets_at``; ``slowness`` of
    the way is left after an epoch."""
    scale = (-math.log(1 - target)) ** (1 / steepness) / meets_at
    control = Control(epochs=300, target=target)
    share, strengths, shares = 0.0, [], []
    for _ in range(300):
        share = slowness * share + (1 - slowness) * (1 - math.exp(-((scale * control.strength) ** steepness)))
        control.epoch_end(share)
        strengths.append(control.strength)
        shares.append(share)
    late = strengths[200:]
    assert max(late) / min(late) < 1.3
    assert abs(sum(shares[200:]) / 100 - target) < 0.1


@OFTEN
@given(target=st.floats(0.1, 0.6), speed=st.floats(0.0005, 0.001), memory=st.floats(0, 0.7))
def test_filters_that_stay_dead_are_not_killed_on_and_on(target, speed, memory):
    """Every epoch ``speed`` times the strength of the filters die, and ``memory`` of what died in the epoch before."""
    control = Control(epochs=200, target=target)
    share = dying = 0.0
    for _ in range(200):
        dying = memory * dying + speed * control.strength
        share = min(1.0, share + dying)
        control.epoch_end(share)
    assert abs(share - target) < 0.05


@OFTEN
@given(
    target=st.floats(0.1, 0.6),
    speed=st.floats(0.0005, 0.002),
    epochs_to_die=st.integers(5, 40),
    alone=st.booleans(),
)
def test_small_filters_count_before_they_are_dead(target, speed, epochs_to_die, alone):
    """Every epoch ``speed`` times the strength of the filters become small, and die ``epochs_to_die`` epochs of strength 1 later.

    ``alone``: whether small filters shrink whatever the strength, as by weight decay, or only as fast as a weak penalty drives
    them: then small filters alone are no reason to lower it for good.
    """
    control = Control(epochs=300, target=target)
    ages: list[tuple[float, float]] = []  # of the small filters: (how far on their way, their share)
    dead = 0.0
    for _ in range(300):
        pace = (1.0 if alone else min(1.0, control.strength)) / epochs_to_die
        ages = [(way + pace, share) for way, share in ages] + [(0.0, speed * control.strength)]
        dead += sum(share for way, share in ages if way >= 1)
        ages = [(way, share) for way, share in ages if way < 1]
        control.epoch_end(dead, dead + sum(share for _, share in ages))
    assert abs(dead - target) < 0.08


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))


def test_arriving_at_the_bound_is_said_once_and_clearly():
    flow = FeatureFlow(dense(), "5%", target_macs=0.5, epochs=40)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(40):
            flow.epoch_end(macs=0.9)
    (only,) = heard
    assert issubclass(only.category, FlowpruneWarning) and only.filename == __file__
    assert "at its bound, 20 times the one given" in str(only.message)
    assert "90.0% of the MACs, not 50.0%" in str(only.message)
    flow = FeatureFlow(dense(), "5%", target_dead=0.5, epochs=40, inputs=torch.zeros(2, 1, 8, 8))
    with pytest.warns(FlowpruneWarning, match=r"0.0% of the filters are dead, not 50.0%"):
        for _ in range(40):
            flow.epoch_end()


def test_the_command_line_says_it_in_one_line(monkeypatch, capfd):
    from flowprune.studies import recipe

    def warned(*given: object) -> None:
        warnings.warn("the strength stands at its bound", FlowpruneWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "load_recipe", warned)
    assert main(["run"]) == 130
    assert capfd.readouterr().err.splitlines()[0] == "warning: the strength stands at its bound"
