"""Entropic sparsification: the authors' alternation, and layers refitted without the channels that count for nothing."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from fixtures import double, fixture
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.interfaces import Outcome
from flowprune.errors import DataError, FlowpruneError
from flowprune.methods.recovery import sparsify_entropically
from flowprune.methods.recovery._calibration.normal_equations import Moments, NormalEquations
from flowprune.methods.recovery.entropic_regression import EntropicRegression, correlations

torch.set_num_threads(1)

CASE_COUNT = 8


def moments_of(x: Tensor, p: Tensor) -> Moments:
    return Moments(x.shape[1], x @ x.T, p @ x.T, x.sum(1), p.sum(1), p.square().sum(1))


@pytest.mark.parametrize("number", range(CASE_COUNT))
def test_weights_coefficients_and_losses_are_the_authors(number: int):
    case = fixture("SPARTAn-alternation")
    assert len(case["outputs"]["cases"]) == CASE_COUNT
    x, p, start = (double(case["inputs"][key]) for key in ("X", "Pi", "w_init"))
    wanted = case["outputs"]["cases"][number]
    moments, channels = moments_of(x, p), torch.arange(6)
    torch.testing.assert_close(correlations(moments, channels), start, rtol=0, atol=1e-12)
    method = EntropicRegression(wanted["eps_W"], wanted["eps_CL"], wanted["eps_L2"], variance=wanted["box_term"])
    _, first, losses = method.alternate(moments, channels, start, turns=0)
    torch.testing.assert_close(first, double(wanted["Lambda_start"]), rtol=1e-9, atol=1e-9)
    assert losses[0] == pytest.approx(wanted["L_start"], rel=1e-9)
    w, coefficients, _ = method.alternate(moments, channels, start, turns=1)
    torch.testing.assert_close(w, double(wanted["w_after_1"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(coefficients, double(wanted["Lambda_after_1"]), rtol=0, atol=1e-5)
    w, coefficients, losses = method.alternate(moments, channels, start, turns=5)
    torch.testing.assert_close(w, double(wanted["w_after_5"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(coefficients, double(wanted["Lambda_after_5"]), rtol=0, atol=1e-4)
    assert losses[1:] == pytest.approx(wanted["L_trace"], rel=1e-6)


def test_small_entropy_finds_the_inputs_that_say_something_and_large_does_not():
    case = fixture("SPARTAn-alternation")
    x, p = double(case["inputs"]["X"]), double(case["inputs"]["Pi"])
    w, _, _ = EntropicRegression(0.01, favours="small").alternate(moments_of(x, p), torch.arange(6))
    assert (w > 0.01).nonzero().flatten().tolist() == [0, 2, 3]
    w, _, _ = EntropicRegression(0.01, favours="large").alternate(moments_of(x, p), torch.arange(6))
    assert bool((w > 0.05).all())


@pytest.mark.parametrize("favours", ["large", "small"])
def test_turns_never_raise_the_loss_and_weights_stay_on_the_simplex(favours: str):
    torch.manual_seed(0)
    x = torch.randn(12, 200, dtype=torch.float64)
    p = torch.randn(5, 12, dtype=torch.float64) @ (x * torch.linspace(0, 2, 12)[:, None])
    channels = torch.arange(12) // 3
    method = EntropicRegression(0.05, variance=True, favours=favours)
    w, coefficients, losses = method.alternate(moments_of(x, p), channels, turns=10)
    assert w.shape == (4,) and coefficients.shape == (5, 13)
    assert bool((w >= 0).all()) and float(w.sum()) == pytest.approx(1, abs=1e-12)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(losses))


def test_a_problem_without_some_inputs_is_that_of_the_others_alone():
    torch.manual_seed(0)
    patches, wanted = torch.randn(1, 5, 40, dtype=torch.float64), torch.randn(1, 3, 40, dtype=torch.float64)
    weight = torch.randn(1, 3, 5, dtype=torch.float64)
    whole, others = NormalEquations(), NormalEquations()
    whole.add(patches, wanted - weight @ patches)
    gone = torch.tensor([False, True, False, False, True])
    others.add(patches[:, ~gone], wanted - weight[:, :, ~gone] @ patches[:, ~gone])
    less = whole.without(gone, weight)
    for mine, theirs in zip(less.solve(0.1, True), others.solve(0.1, True), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    assert less.missing == pytest.approx(others.missing, rel=1e-10)
    moments = whole.moments(weight)
    torch.testing.assert_close(moments.products, (wanted @ patches.mT)[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(moments.outputs_squared, wanted.square().sum(2)[0], rtol=0, atol=1e-10)


def carried_out(model: nn.Module, inputs: Tensor, outcome: Outcome) -> tuple[nn.Module, nn.Module]:
    """The network with the outcome's weights, and what is left of it."""
    full = copy.deepcopy(model)
    full.load_state_dict({**model.state_dict(), **outcome.weights})
    return full, fp.prune(full, fp.plan(full, inputs, outcome=outcome)).eval()


def test_units_that_say_nothing_leave_and_the_function_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3)).double()
    with torch.no_grad():
        model[0].bias[[1, 4, 7]] = -100
    x = torch.randn(80, 4, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    outcome = sparsify_entropically(model, [x[:50], x[50:]], below=1e-3, ridge=0.0)
    assert outcome.leaves["0.weight"].tolist() == [1, 4, 7]
    _, small = carried_out(model, x, outcome)
    assert small[0].out_features == 7
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Stream(nn.Module):
    """A residual stream that three layers read, a depthwise layer on it, and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inside, self.back = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.back(torch.relu(self.inside(x))))
        return self.head(torch.relu(self.depthwise(x)).mean((2, 3)))


def test_what_is_cut_is_what_was_refitted():
    torch.manual_seed(0)
    model, x = Stream().double().eval(), torch.randn(20, 3, 6, 6, dtype=torch.float64)
    outcome = sparsify_entropically(model, x.split(8), below=0.6)
    again = sparsify_entropically(model, x.split(8), below=0.6)
    assert set(outcome.weights) == {
        *("inside.weight", "inside.bias", "back.weight", "back.bias", "head.weight", "head.bias")
    }
    assert all(torch.equal(value, again.weights[name]) for name, value in outcome.weights.items())
    assert outcome.leaves["stem.weight"].tolist() == outcome.leaves["back.weight"].tolist()
    full, small = carried_out(model, x[:2], outcome)
    assert small.inside.out_channels == 10 - len(outcome.leaves["inside.weight"]) < 10
    torch.testing.assert_close(small(x), full(x), rtol=0, atol=1e-10)
    by_score = fp.plan(full, x[:2], outcome=outcome, macs=0.5)
    assert by_score.macs[1] <= by_score.macs[0] / 2
    nothing = sparsify_entropically(model, [x], below=0.0)
    assert not any(len(gone) for gone in nothing.leaves.values())
    torch.testing.assert_close(nothing.weights["head.weight"], model.head.weight, rtol=0, atol=1e-10)


def test_what_is_wrong_is_one_line():
    model, x = Stream(), torch.randn(4, 3, 6, 6)
    for wrong in ({"below": 2}, {"ridge": -1}, {"turns": 0}):
        with pytest.raises(FlowpruneError) as raised:
            sparsify_entropically(model, [x], **wrong)
        assert "\n" not in str(raised.value)
    for wrong in ({"entropy": -1}, {"error": 0}, {"favours": "none"}):
        with pytest.raises(FlowpruneError):
            EntropicRegression(**wrong)
    with pytest.raises(DataError, match="no batch"):
        sparsify_entropically(model, [])
    with pytest.raises(FlowpruneError, match="no layer of the model"):
        sparsify_entropically(nn.Linear(3, 2), [torch.zeros(2, 3)])
