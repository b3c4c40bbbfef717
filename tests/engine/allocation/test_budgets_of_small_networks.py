"""Properties of every budget over small random networks, against counting and brute force."""

from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_networks import IMAGE, NETWORKS, SmallNetwork, Stage
from torch import nn

from flowprune.engine.allocation import Budget, Rounding, fit_channels, fit_count, rank, widths_of
from flowprune.engine.coupling.labels import Array
from flowprune.engine.measuring import measure
from flowprune.engine.planning import CoupledModel
from flowprune.errors import BudgetError
from flowprune.methods.importance import Random
from flowprune.pruning import plan, prune

X = torch.zeros(IMAGE)
OFTEN = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def scores_of(coupled: CoupledModel, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.random(group.channels) for group in coupled.coupling.groups]


@OFTEN
@given(
    network=NETWORKS,
    seed=st.integers(0, 99),
    share=st.floats(0.05, 1.0),
    kind=st.sampled_from(["macs", "params"]),
    scope=st.sampled_from(["global", "local"]),
    multiple=st.sampled_from([1, 1, 2, 4, 8]),
    largest_cut=st.sampled_from([0.3, 0.9, 1.0]),
)
def test_a_count_is_never_exceeded_and_met_within_half_a_percent_or_the_smallest_step(
    network: SmallNetwork, seed: int, share: float, kind: str, scope: str, multiple: int, largest_cut: float
) -> None:
    coupled = CoupledModel.of(network, X)
    ranking = rank(coupled.coupling, scores_of(coupled, seed), largest_cut)
    rounding = Rounding(coupled.coupling, ranking.limits, multiple)
    model = coupled.macs if kind == "macs" else coupled.params
    dense = model.count(np.zeros(len(ranking.limits), dtype=np.int64))
    budget = Budget(kind, share=share, scope=scope)  # type: ignore[arg-type]
    target = int(share * dense + 1e-9)
    try:
        fit = fit_count(budget, ranking, rounding, model.count)
    except BudgetError:
        assert model.count(rounding.nearest(ranking.limits)) > target, "what the limits allow would have met the target"
        return
    reached = model.count(fit.lost)
    if multiple > 1:
        assert (fit.lost <= rounding.nearest(fit.asked)).all(), (
            "the nearest width, or wider where the target leaves room"
        )
    assert reached <= target == fit.target
    assert (fit.lost <= ranking.limits).all() and (fit.lost >= 0).all()
    steps = [
        model.count(fit.lost - rounding.steps[c] * (np.arange(len(fit.lost)) == c)) - reached
        for c in range(len(fit.lost))
        if fit.lost[c] >= rounding.steps[c]
    ]
    if fit.smallest_step is None:
        assert reached >= 0.995 * target or not steps
    else:
        assert fit.smallest_step == min(steps) > target - reached > 0.005 * target


def allowed(coupled: CoupledModel, rounding: Rounding, lost: Array) -> bool:
    widths = [width for width in widths_of(coupled.coupling) if width.layer not in rounding.unmet]
    return all(width.after(lost) > 0 and width.after(lost) % rounding.multiple == 0 for width in widths)


def together(coupled: CoupledModel) -> list[list[int]]:
    """Classes that share a layer, by brute force."""
    sets: list[set[int]] = [{c} for c in range(len(coupled.coupling.classes))]
    for width in widths_of(coupled.coupling):
        own = set(np.flatnonzero(width.losses).tolist())
        met = [s for s in sets if s & own]
        sets = [s for s in sets if not s & own] + [reduce(set.union, met, set())]
    return [sorted(s) for s in sets if s]


@OFTEN
@given(
    network=NETWORKS,
    seed=st.integers(0, 99),
    share=st.floats(0.05, 1.0),
    multiple=st.integers(2, 9),
    largest_cut=st.sampled_from([0.5, 0.9, 1.0]),
)
def test_widths_go_to_the_nearest_allowed_ones(
    network: SmallNetwork, seed: int, share: float, multiple: int, largest_cut: float
) -> None:
    coupled = CoupledModel.of(network, X)
    ranking = rank(coupled.coupling, scores_of(coupled, seed), largest_cut)
    rounding = Rounding(coupled.coupling, ranking.limits, multiple)
    fit = fit_channels(np.full(len(ranking.limits), share), ranking, rounding)
    assert allowed(coupled, rounding, fit.lost)
    assert (fit.lost <= ranking.limits).all() and (fit.lost >= 0).all()
    widths = widths_of(coupled.coupling)
    for layer, why in rounding.unmet.items():
        (own,) = (width for width in widths if width.layer == layer)
        assert str(multiple) in why
        if "there is no multiple" in why:
            assert own.after(fit.lost) == own.dense, "what cannot be met stays whole"
    for classes in together(coupled):
        met = [any(w.losses[c] and w.layer not in rounding.unmet for w in widths) for c in classes]
        # where no layer of a class can be a multiple, the class loses multiples all the same, or nothing
        strides = [1 if is_met else int(rounding.steps[c]) for c, is_met in zip(classes, met, strict=True)]
        ranges = [range(0, int(rounding.limits[c]) + 1, stride) for c, stride in zip(classes, strides, strict=True)]
        if np.prod([len(r) for r in ranges]) > 5000:
            continue
        near = [max(int(w.losses[c]) for w in widths if w.losses[c]) for c in classes]
        best: tuple[int, int] | None = None
        for choice in itertools.product(*ranges):
            lost = fit.lost.copy()
            lost[classes] = choice
            if allowed(coupled, rounding, lost):
                distance = sum(n * abs(int(fit.asked[c]) - k) for n, c, k in zip(near, classes, choice, strict=True))
                gone = sum(n * k for n, k in zip(near, choice, strict=True))
                best = min(best or (distance, gone), (distance, gone))
        own_distance = sum(n * abs(int(fit.asked[c] - fit.lost[c])) for n, c in zip(near, classes, strict=True))
        assert best == (own_distance, sum(n * int(fit.lost[c]) for n, c in zip(near, classes, strict=True)))


@settings(OFTEN, max_examples=25)
@given(network=NETWORKS, seed=st.integers(0, 99), multiple=st.sampled_from([1, 4]), cap=st.sampled_from([0.25, 0.8]))
def test_plans_count_what_is_then_cut_and_repeat_themselves(
    network: SmallNetwork, seed: int, multiple: int, cap: float
) -> None:
    options = {"importance": Random(seed=seed), "channels": 0.4, "round_to": multiple, "largest_cut": cap}
    made = plan(network, X, **options)
    assert made == plan(network, X, **options)
    small = prune(network, made)
    found = measure(small, X)
    assert (found.macs, found.params) == (made.macs[1], made.params[1])
    tensors = dict(small.named_parameters())
    for name, dense in network.named_parameters():
        if name.endswith("weight") and dense.dim() > 1 and not name.startswith("head"):
            before, after = dense.shape[0], tensors[name].shape[0]
            assert before - after <= cap * before + 1e-9
    for width in made.rounded:
        kept = tensors[f"{width.layer}.weight"].shape[0]
        assert kept == width.reached and (width.unmet or kept % multiple == 0)


def test_what_cannot_be_a_multiple_is_said_and_stays() -> None:
    network = SmallNetwork(10, (Stage("chain", 40, 0), Stage("chain", 33, 0)))
    made = plan(network, X, importance=Random(), channels=0.5, round_to=16)
    by_layer = {width.layer: width for width in made.rounded}
    assert by_layer["stem"].reached == 10 and "there is no multiple of 16" in by_layer["stem"].unmet
    assert (by_layer["layers.0"].asked, by_layer["layers.0"].reached) == (20, 16)
    assert (by_layer["layers.1"].asked, by_layer["layers.1"].reached) == (16, 16)
    text = str(made)
    assert "widths rounded to multiples of 16: 2 of 3 layers" in text
    assert "rounded: layers.0: asked 20, reached 16" in text
    assert "not rounded: stem keeps 10 (asked: 5): there is no multiple of 16" in text


def test_a_frozen_part_of_a_layer_counts_in_its_width() -> None:
    """Two of a layer's channels cannot leave: its width is what they and the rest make together."""

    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 30, 1), nn.Conv2d(30, 4, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.first(x)
            return y[:, :5], self.second(torch.relu(y))

    made = plan(Sliced(), X, importance=Random(), channels=0.5, round_to=8)
    (width,) = made.rounded
    assert width.layer == "first" and width.reached == 16 and not width.unmet


def test_one_that_is_equally_near_is_the_wider() -> None:
    network = SmallNetwork(24, (Stage("chain", 24, 0),))
    made = plan(network, X, importance=Random(), channels=0.5, round_to=8)
    assert [(width.asked, width.reached) for width in made.rounded] == [(12, 16), (12, 16)]


def test_dead_filters_go_only_as_far_as_the_next_width() -> None:
    """What is alive does not leave for the sake of a multiple."""
    network = nn.Sequential(
        nn.Conv2d(3, 20, 1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 8, 1), nn.Flatten(), nn.Linear(288, 2)
    )
    network.eval()
    with torch.no_grad():
        network[1].weight[:7], network[1].bias[:7] = 0.0, -1.0
    for multiple, kept in ((1, 13), (8, 16), (4, 16), (9, 18), (32, 20)):
        made = plan(network, X, threshold=0.01, round_to=multiple)
        gone = made.removed.get("0.weight", {0: ()})[0]
        assert set(gone) <= set(range(7)) and 20 - len(gone) == kept


@pytest.mark.parametrize("wrong", [0, -8, 2.5, True, "8"])
def test_a_width_is_a_whole_number(wrong: object) -> None:
    with pytest.raises(BudgetError, match=r"round_to=.* is not a width"):
        plan(SmallNetwork(8, ()), X, importance=Random(), channels=0.5, round_to=wrong)  # type: ignore[arg-type]
