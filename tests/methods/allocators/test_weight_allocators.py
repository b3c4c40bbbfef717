"""Allocators on the weights of tensors, against what the authors' code gives and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowprune.engine.interfaces import AllocationProblem
from flowprune.engine.planning.weight_problem import kept_shares, weight_problem
from flowprune.errors import BudgetError, DataError, FlowpruneError, ModelError, UnreachableBudgetError
from flowprune.methods.allocators import (
    LAMP,
    REGISTRY,
    ErdosRenyiKernel,
    GlobalRank,
    RateDistortion,
    Uniform,
    UniformPlus,
)
from flowprune.methods.allocators._distortion import additive_costs
from flowprune.methods.allocators._distortion.additive_costs import least_distortion
from flowprune.methods.allocators._distortion.curves import distortion_curves
from flowprune.methods.allocators._levels.densities import proportional_densities
from flowprune.methods.allocators.lamp import lamp_scores
from flowprune.methods.importance.weight_scores import WeightMagnitude
from flowprune.methods.masks import Weight


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8 * 4 * 4, 5)).double()


BATCH = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def problem_of(model: nn.Module, weights: float = 0.5) -> AllocationProblem:
    return weight_problem(model, WeightMagnitude()(model), Weight(), weights)


def baseline_problem() -> tuple[AllocationProblem, dict]:
    case = fixture("RD_PRUNE-lamp-erk-unifplus-50")
    model = nn.Module()
    for number, weight in case["inputs"]["weights"].items():
        model.register_parameter(f"layer{number}", nn.Parameter(torch.tensor(weight, dtype=torch.float64)))
    scores = {name: parameter.detach().abs() for name, parameter in model.named_parameters()}
    return weight_problem(model, scores, Weight(), case["inputs"]["amount"]), case


def test_lamp_erk_and_uniform_plus_share_out_as_the_public_code() -> None:
    problem, case = baseline_problem()
    for theirs, scores in zip(case["outputs"]["lamp_scores"], problem.scores, strict=True):
        expected = np.sort(np.array(theirs).ravel())
        assert lamp_scores(scores) == pytest.approx(expected, rel=1e-5)
    shares = LAMP()(problem) / problem.sizes
    assert shares == pytest.approx(case["outputs"]["lamp_amounts"], abs=1e-6)
    # ours are whole numbers of weights that meet the target exactly, so each is within one of theirs
    for allocator, key in ((ErdosRenyiKernel(), "erk_amounts"), (UniformPlus(), "unifplus_amounts")):
        levels = allocator(problem)
        assert np.abs(levels - np.array(case["outputs"][key]) * problem.sizes).max() < 1
        assert problem.count(levels) == problem.target
    sizes, shapes = problem.sizes.tolist(), problem.shapes
    assert shapes is not None
    erk = proportional_densities([sum(s) / np.prod(s) for s in shapes], sizes, problem.target)
    plus = proportional_densities([1.0] * 3, sizes, problem.target, [1.0, 0.0, 0.2])
    assert erk is not None and plus is not None
    # the public code rounds the former to whole weights, the latter it leaves as it is
    kept = (1 - np.array(case["outputs"]["erk_amounts"])) * problem.sizes
    assert np.round(erk * problem.sizes) == pytest.approx(kept, abs=1e-4)
    assert 1 - plus == pytest.approx(case["outputs"]["unifplus_amounts"], abs=1e-6)


def test_curves_are_those_of_the_authors_code() -> None:
    case = fixture("RD_PRUNE-rd-curve-mean")
    first, second = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 6, 3, padding=1, bias=False)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6, bias=False))
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *pooled).double()
    for parameter, weight in zip(model.parameters(), case["inputs"]["weights"].values(), strict=True):
        parameter.data = torch.tensor(weight, dtype=torch.float64)
    x = torch.tensor(case["inputs"]["x"], dtype=torch.float64)
    steps = case["inputs"]["steps"]
    whole = distortion_curves(problem_of(model), [x], points=steps)
    in_parts = distortion_curves(problem_of(model), [(x[:3], None), (x[3:], None)], points=steps)
    worst = distortion_curves(problem_of(model), [x], points=steps, over="worst")
    for curve, theirs in zip(whole, case["outputs"]["distortion"], strict=True):
        assert curve.distortions == pytest.approx(theirs, rel=1e-5)
    for curve, other, largest in zip(whole, in_parts, worst, strict=True):
        assert other.distortions == pytest.approx(curve.distortions, rel=1e-12)
        assert (largest.distortions >= curve.distortions).all()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_ours_distorts_no_more_than_the_authors_program_at_what_it_keeps(number: int) -> None:
    """Theirs is not exact: case 1 keeps 151 of a budget of 150, cases 1 and 4 are not optimal."""
    case = fixture(f"RD_PRUNE-dp-allocation-{number}")
    inputs, outputs = case["inputs"], case["outputs"]
    left = [
        np.array([int(size * (1 - a)) for a in amounts])
        for size, amounts in zip(inputs["sizes"], inputs["phi"], strict=True)
    ]
    distortions = [np.array(values) for values in inputs["dist"]]

    def reached(target: int) -> float:
        chosen = least_distortion(left, distortions, target)
        assert chosen is not None and sum(x[c] for x, c in zip(left, chosen, strict=True)) <= target
        return float(sum(x[c] for x, c in zip(distortions, chosen, strict=True)))

    assert reached(outputs["kept_total"]) <= outputs["sum_distortion"] + 1e-9
    assert reached(outputs["budget"]) == pytest.approx(outputs["exhaustive_optimum"]["sum_distortion"], abs=1e-9)


OPTIONS = st.lists(st.tuples(st.integers(-5, 40), st.integers(0, 30)), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(OPTIONS, min_size=1, max_size=4), st.integers(-20, 120))
def test_least_distortion_is_brute_force(units, target) -> None:
    left = [np.array([option[0] for option in options]) for options in units]
    distortions = [np.array([option[1] for option in options], dtype=float) for options in units]
    choices = itertools.product(*[range(len(options)) for options in units])
    every = [
        (sum(d[c] for d, c in zip(distortions, choice, strict=True)), choice)
        for choice in choices
        if sum(x[c] for x, c in zip(left, choice, strict=True)) <= target
    ]
    chosen = least_distortion(left, distortions, target)
    if not every:
        assert chosen is None
        return
    assert chosen is not None and sum(x[c] for x, c in zip(left, chosen, strict=True)) <= target
    assert sum(d[c] for d, c in zip(distortions, chosen, strict=True)) == min(every)[0]


def test_with_more_partial_choices_than_are_carried_it_is_still_never_above(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    left = [np.arange(200)[::-1] * 7 + 1 for _ in range(5)]
    distortions = [np.cumsum(generator.random(200)) for _ in range(5)]
    exact = least_distortion(left, distortions, 3000)
    monkeypatch.setattr(additive_costs, "MOST_STATES", 64)
    thinned = least_distortion(left, distortions, 3000)
    assert exact is not None and thinned is not None
    total = [sum(d[c] for d, c in zip(distortions, chosen, strict=True)) for chosen in (exact, thinned)]
    assert sum(x[c] for x, c in zip(left, thinned, strict=True)) <= 3000
    assert total[0] <= total[1] <= 1.1 * total[0]
    assert least_distortion(left, distortions, 5) == [199] * 5 and least_distortion(left, distortions, 4) is None


def test_rate_distortion_on_tensors_is_brute_force_over_its_grid() -> None:
    for seed in range(3):
        model = small_network(seed)
        problem = problem_of(model, 0.4)
        levels = RateDistortion([BATCH], points=6)(problem)
        curves = distortion_curves(problem, [BATCH], points=6)
        best = min(
            sum(curve.distortions[c] for curve, c in zip(curves, choice, strict=True))
            for choice in itertools.product(*[range(len(curve.levels)) for curve in curves])
            if problem.count(np.array([curve.levels[c] for curve, c in zip(curves, choice, strict=True)]))
            <= problem.target
        )
        assert problem.count(levels) <= problem.target
        reached = sum(curve.at(level) for curve, level in zip(curves, levels, strict=True))
        assert reached == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name", ["global_rank", "uniform", "lamp", "erdos_renyi_kernel", "uniform_plus"])
@settings(max_examples=20, deadline=None)
@given(weights=st.floats(0.25, 1.0))
def test_every_allocator_without_data_is_exactly_at_the_target_and_masks_follow(name: str, weights: float) -> None:
    model = small_network()
    scores = WeightMagnitude()(model)
    problem = weight_problem(model, scores, Weight(), weights)
    try:
        levels = REGISTRY[name]()(problem)
    except UnreachableBudgetError as error:  # its first layer stays whole, and a fifth of its last
        assert name == "uniform_plus" and error.smallest is not None and error.smallest > problem.target
        return
    assert problem.count(levels) == problem.target == int(weights * problem.sizes.sum() + 1e-6)
    masks = Weight().select(scores, kept_shares(problem, levels))
    assert [int((~mask).sum()) for mask in masks.values()] == levels.tolist()


def test_shares_are_what_their_names_say() -> None:
    problem = problem_of(small_network(), 0.5)
    assert (np.abs(Uniform()(problem) / problem.sizes - 0.5) < 0.01).all()
    ranked = GlobalRank()(problem)
    threshold = max(scores[level - 1] for scores, level in zip(problem.scores, ranked, strict=True) if level)
    assert all(scores[level] >= threshold for scores, level in zip(problem.scores, ranked, strict=True))
    plus = UniformPlus()(problem_of(small_network(), 0.3))
    assert plus[0] == 0
    sparse = LAMP()(problem_of(small_network(), 3 / 1000))
    assert (sparse < problem.sizes).sum() == 3 or (sparse < problem.sizes).all()  # no layer is lost before the others


def test_lamp_scores_of_zeros_equal_and_infinite_magnitudes() -> None:
    assert lamp_scores(np.zeros(3)).tolist() == [0, 0, 0]
    assert lamp_scores(np.array([1.0, 1.0])).tolist() == [0.5, 1.0]
    assert lamp_scores(np.array([1e-200, 1.0, np.inf])).tolist() == [0, 1, 1]
    assert lamp_scores(np.array([1e200, 2e200])) == pytest.approx([0.2, 1.0])


def test_a_probe_is_masked_and_the_model_is_left_alone() -> None:
    model = small_network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    problem = problem_of(model)
    levels = np.array([100, 0, 3])
    probe = problem.probe(levels)
    assert [int((probe.get_parameter(name) == 0).sum()) for name in problem.units] == levels.tolist()
    assert model.training and not probe.training
    probe.get_parameter("0.bias").data.fill_(9)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(problem.probe(np.zeros(3, dtype=np.int64))(BATCH), model.eval()(BATCH))


def test_what_cannot_be_allocated_is_one_line() -> None:
    model = small_network()
    problem = problem_of(model, 0.1)
    with pytest.raises(UnreachableBudgetError, match="these densities allow is 290"):
        UniformPlus()(problem)  # the first convolution is more than that
    with pytest.raises(DataError, match="need calibration batches"):
        RateDistortion([])(problem)
    for options in ({"points": 0}, {"over": "max"}):
        with pytest.raises(FlowpruneError, match=next(iter(options))):
            RateDistortion([BATCH], **options)
    with pytest.raises(BudgetError, match=r"weights=0 is not a budget"):
        problem_of(model, 0)
    with pytest.raises(ModelError, match="are of no parameter"):
        weight_problem(model, {"0.weights": torch.ones(3)}, Weight(), 0.5)
    with pytest.raises(ModelError, match="hold NaN"):
        weight_problem(model, {"0.bias": torch.full((6,), float("nan"))}, Weight(), 0.5)


def test_outputs_that_cannot_be_compared_are_one_line() -> None:
    class Broken(nn.Linear):
        def forward(self, x):
            return super().forward(x) / (self.weight.abs().sum() > 1e-3)

    model = Broken(3, 2).double()
    with pytest.raises(ModelError, match="NaN or infinite where weight loses"):
        RateDistortion([torch.randn(2, 3).double()], points=2)(problem_of(model, 0.5))

    class Numbers(nn.Linear):
        def forward(self, x):
            return super().forward(x).argmax(1)

    with pytest.raises(ModelError, match="returns no floating-point tensor"):
        RateDistortion([torch.randn(2, 3)], points=2)(problem_of(Numbers(3, 2), 0.5))
