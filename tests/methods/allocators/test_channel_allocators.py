"""Allocators on classes of coupled groups: real cuts, exact counts, and the gap to all cuts there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_networks import IMAGE
from torch import nn

import flowprune as fp
from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.engine.planning import CoupledModel
from flowprune.engine.surgery import Refusal
from flowprune.errors import BudgetError, DataError, UnknownNameError, UnreachableBudgetError
from flowprune.methods.allocators import REGISTRY, RateDistortion
from flowprune.methods.allocators._distortion.coupled_costs import levels_of_coupled_units
from flowprune.methods.allocators._distortion.curves import Curve, distortion_curves, total_distortion
from flowprune.methods.importance import L1

INPUT = torch.zeros(IMAGE)
BATCHES = [torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(2))]


class ThreeClasses(nn.Module):
    """Three hidden widths, each of a class of its own."""

    def __init__(self, widths: tuple[int, int, int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        first, second, third = widths
        self.one = nn.Conv2d(3, first, 3, padding=1)
        self.two = nn.Conv2d(first, second, 3, padding=1, stride=2)
        self.three = nn.Conv2d(second, third, 3, padding=1)
        self.head = nn.Linear(third, 4)

    def forward(self, x):
        x = torch.relu(self.one(x))
        x = torch.relu(self.two(x))
        return self.head(torch.relu(self.three(x)).mean((2, 3)))


class Kept:
    """An allocator that keeps the problem, and what another one answered."""

    def __init__(self, allocator) -> None:
        self.allocator = allocator

    def __call__(self, problem: AllocationProblem) -> Levels:
        self.problem = problem
        self.levels = self.allocator(problem)
        return self.levels


def least_of_all(problem: AllocationProblem, curves: list[Curve]) -> float:
    """The smallest sum of distortions among all levels that meet the target."""
    every = itertools.product(*[range(int(limit) + 1) for limit in problem.limits])
    return min(
        total_distortion(curves, np.array(levels))
        for levels in every
        if problem.count(np.array(levels, dtype=np.int64)) <= problem.target
    )


def test_the_gap_to_all_cuts_of_three_class_networks(record_property: pytest.RecordProperty) -> None:
    """The curves are those of real cuts; every level is on the grid."""
    gaps = []
    for seed, widths in enumerate([(6, 8, 7), (10, 5, 8), (4, 9, 9)]):
        for macs in (0.3, 0.6)[seed % 2 :]:
            asked = Kept(RateDistortion(BATCHES, points=12))
            made = fp.plan(ThreeClasses(widths, seed), INPUT, importance=L1(), macs=macs, allocator=asked)
            problem = asked.problem
            assert len(problem.units) == 3
            curves = distortion_curves(problem, BATCHES, points=12)
            best = least_of_all(problem, curves)
            gaps.append(total_distortion(curves, asked.levels) / best - 1)
            assert made.macs[1] == problem.count(asked.levels) <= problem.target
    record_property("gaps", gaps)
    print("the distortion above the least there is, as a share of it:", *(f"{gap:.4f}" for gap in gaps))
    assert min(gaps) >= -1e-9
    assert max(gaps) <= 0.02, gaps


def drawn_chain(generator: np.random.Generator) -> tuple[AllocationProblem, list[Curve]]:
    """A chain of three products of widths, as convolutions cost, with rising curves."""
    widths = generator.integers(2, 10, 3)
    limits = widths - 1

    def count(levels: Levels) -> int:
        a, b, c = (widths - levels).tolist()
        return int(27 * a + 9 * a * b + 9 * b * c + 5 * c)

    curves = [Curve(np.arange(n + 1), np.cumsum([0.0, *generator.uniform(0.01, 1, n)])) for n in limits]
    problem = AllocationProblem(
        units=("a", "b", "c"),
        scores=tuple(np.arange(float(width)) for width in widths),
        limits=limits,
        steps=np.ones(3, dtype=np.int64),
        count=count,
        target=int(generator.integers(count(limits), count(np.zeros(3, dtype=np.int64)) + 1)),
        counted="macs",
        rounding=lambda levels: np.minimum(levels, limits),
        probe=lambda levels: nn.Identity(),
    )
    return problem, curves


def test_marginal_costs_and_repair_are_near_brute_force_on_any_rising_curves() -> None:
    generator = np.random.default_rng(0)
    gaps = []
    for _ in range(120):
        problem, curves = drawn_chain(generator)
        levels = levels_of_coupled_units(problem, curves)
        assert problem.count(levels) <= problem.target
        for unit in np.flatnonzero(levels):
            back = levels.copy()
            back[unit] -= 1
            assert problem.count(back) > problem.target  # not a step more would fit
        gaps.append(total_distortion(curves, levels) / max(least_of_all(problem, curves), 1e-12) - 1)
    assert np.mean(np.array(gaps) < 1e-9) > 0.9 and np.mean(gaps) < 0.01, sorted(gaps)[-12:]


@pytest.mark.parametrize("name", ["global_rank", "uniform", "lamp", "rate_distortion"])
def test_every_allocator_meets_macs_and_parameters_on_a_residual_network(name: str) -> None:
    torch.manual_seed(0)
    model = fp.models.create("resnet8").eval()
    x = torch.randn(1, 3, 16, 16)
    options = {"batches": [torch.randn(2, 3, 16, 16)], "points": 2} if name == "rate_distortion" else {}
    for budget in ({"macs": 0.5}, {"params": 0.4}):
        made = fp.plan(model, x, importance=L1(), allocator=REGISTRY[name](**options), **budget)
        ((kind, share),) = budget.items()
        before, after = getattr(made, kind)
        assert after <= share * before
        assert after >= share * before - max(made.smallest_step or 0, 0.005 * before)
        small = fp.prune(model, made)
        assert getattr(fp.measure(small, x), kind) == after


def test_uniform_takes_the_same_share_everywhere_and_widths_stay_multiples() -> None:
    model = ThreeClasses((16, 24, 32), 0)
    made = fp.plan(model, INPUT, importance=L1(), macs=0.4, allocator=REGISTRY["uniform"]())
    kept = [layer.channels[1] / layer.channels[0] for layer in made.layers[:3]]
    assert max(kept) - min(kept) < 0.1
    for name in ("uniform", "rate_distortion"):
        options = {"batches": BATCHES, "points": 8} if name == "rate_distortion" else {}
        allocator = REGISTRY[name](**options)
        made = fp.plan(model, INPUT, importance=L1(), macs=0.4, round_to=4, allocator=allocator)
        assert made.macs[1] <= 0.4 * made.macs[0]
        small = fp.prune(model, made)
        assert all(layer.weight.shape[0] % 4 == 0 for layer in (small.one, small.two, small.three))


def test_depthwise_convolutions_and_attention_heads() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 3, stride=3)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.block = nn.TransformerEncoderLayer(8, 4, 12, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = self.depthwise(self.patches(x)).flatten(2).transpose(1, 2)
            return self.head(self.block(x).mean(1))

    torch.manual_seed(0)
    made = fp.plan(Mixed(), INPUT, importance=L1(), macs=0.7, allocator=RateDistortion(BATCHES, points=3))
    assert made.macs[1] <= 0.7 * made.macs[0]


def test_what_no_allocator_can_do_is_one_line() -> None:
    model = ThreeClasses((6, 6, 6), 0)
    for options, said in (
        ({"channels": 0.5}, "shares out a budget of macs=, params= or latency=, not channels=0.5"),
        ({"threshold": 0.1}, "not threshold=0.1"),
        ({"macs": 0.5, "branches": True}, "does not go with branches="),
        ({"macs": 0.5, "heads": "both"}, 'does not go with heads="both"'),
        ({"macs": 0.5, "scope": "local"}, 'does not go with scope="local"'),
    ):
        with pytest.raises(BudgetError, match=said):
            fp.plan(model, INPUT, importance=L1(), allocator="uniform", **options)
    with pytest.raises(UnknownNameError, match="did you mean"):
        fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator="unifrom")
    with pytest.raises(DataError, match="rate_distortion needs data"):
        fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator="rate_distortion")
    for name in ("erdos_renyi_kernel", "uniform_plus"):
        with pytest.raises(BudgetError, match=f"{name} shares out the weights of tensors, and one is a group"):
            fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator=REGISTRY[name]())
    for name in ("global_rank", "rate_distortion"):
        allocator = REGISTRY[name](**({"batches": BATCHES, "points": 2} if name == "rate_distortion" else {}))
        with pytest.raises(UnreachableBudgetError, match="macs cannot be met"):
            fp.plan(model, INPUT, importance=L1(), macs=0.001, allocator=allocator)

    def above(problem: AllocationProblem) -> Levels:
        return np.zeros(len(problem.units), dtype=np.int64)

    with pytest.raises(BudgetError, match=r"function leaves .* macs, and the target is"):
        fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator=above)
    with pytest.raises(BudgetError, match="must return 3 whole numbers"):
        fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator=lambda problem: np.zeros(2))
    with pytest.raises(BudgetError, match="which may lose 0 to"):
        fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator=lambda problem: problem.limits + 1)


def test_in_steps_the_end_is_that_of_a_single_budget() -> None:
    model = ThreeClasses((12, 10, 8), 1)
    small = fp.prune_iteratively(model, INPUT, steps=2, importance=L1(), macs=0.4, allocator="lamp")
    assert 0.3 < fp.measure(small, INPUT).macs / fp.measure(model, INPUT).macs <= 0.4


class TwoTensors(nn.Module):
    """One number reshapes what two layers make: neither of them can be probed alone."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.ModuleList([nn.Conv1d(8, 6, 1), nn.Conv1d(8, 6, 1)])
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        parts = [layer(x).relu().reshape(len(x), self.width, -1) for layer in (self.left, self.right)]
        return self.head(sum(mix(part) for mix, part in zip(self.mix, parts, strict=True)).relu().mean(2))


def test_where_a_probe_cannot_be_cut_its_classes_are_made_anew_and_shared_out_again() -> None:
    asked = Kept(RateDistortion(BATCHES, points=4))
    model = TwoTensors()
    made = fp.plan(model, INPUT, importance=L1(), macs=0.6, allocator=asked)
    assert asked.problem.units == ("left", "mix.0")  # the two that one number counts are one class now
    left, right = (made.removed[f"{name}.weight"][0] for name in ("left", "right"))
    assert len(left) == len(right) > 0 and fp.prune(model, made).width == 8 - len(left)
    assert made.importance == "L1, Kept" and made.macs[1] <= 0.6 * made.macs[0]


def test_a_probe_that_the_certificate_refuses_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = CoupledModel.refusal_of
    model = ThreeClasses((6, 6, 6), 0)

    def refusal_of(self, made, *others):
        refused = next(o for o in self.graph.operations if o.module == "two")
        if "two.weight" in made.removed and 0 in made.removed["two.weight"]:
            return Refusal(refused.index, False, "it is not what was asked for")
        return proof(self, made, *others)

    monkeypatch.setattr(CoupledModel, "refusal_of", refusal_of)
    made = fp.plan(model, INPUT, importance=L1(), macs=0.9, allocator=RateDistortion(BATCHES, points=3))
    assert "could not be certified: it is not what was asked for" in made.frozen["two.weight"]
    assert made.macs[1] <= 0.9 * made.macs[0] and 0 not in made.removed.get("two.weight", {})


def test_an_own_allocator_is_a_function_of_the_problem() -> None:
    model = ThreeClasses((6, 6, 6), 0)
    made = fp.plan(model, INPUT, importance=L1(), macs=0.5, allocator=lambda problem: problem.limits)
    assert [layer.channels[1] for layer in made.layers[:3]] == [2, 2, 2]
