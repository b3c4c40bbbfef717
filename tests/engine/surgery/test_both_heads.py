"""heads="both": whole heads leave, and channels inside the others; the one plan is the two cuts it is made of."""

from __future__ import annotations

import pytest
import torch
from attention_shapes import HEADS, SHAPES, TOKENS, WIDTH, Network
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.errors import BudgetError
from flowprune.methods.importance import Random
from flowprune.models import create
from flowprune.pruning import plan, prune

BUDGETS = {"channels": {"channels": 0.5}, "params": {"params": 0.6}, "macs": {"macs": 0.6, "scope": "local"}}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomized(Network(SHAPES[name])).double().eval()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", SHAPES)
def test_attention_equals_its_silenced_twin(name: str, budget: str) -> None:
    model = network(name)
    tokens = torch.randn(3, TOKENS, 5, dtype=torch.float64)
    made = plan(model, tokens, importance=Random(seed=0), heads="both", **BUDGETS[budget])
    small = prune(model, made).eval()
    with torch.no_grad():
        assert largest_difference(small(tokens), silenced_twin(model, made)(tokens)) < 1e-10
    assert made.params[1] == sum(parameter.numel() for parameter in small.parameters())
    if budget != "channels":
        kind = budget
        assert getattr(made, kind)[1] <= 0.6 * getattr(made, kind)[0]


def test_heads_leave_and_their_widths_shrink() -> None:
    class Attention(nn.Module):
        """Scores by a written scale, so that a width may change; sizes follow from the tensors."""

        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim = 4, 6
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, t, _ = x.shape
            q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            x = (q * 0.4 @ k.transpose(-2, -1)).softmax(-1) @ v
            return self.out(x.transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim))

    torch.manual_seed(0)
    model = randomized(Network(Attention)).double().eval()
    tokens = torch.randn(3, TOKENS, 5, dtype=torch.float64)
    made = plan(model, tokens, importance=Random(seed=0), heads="both", channels=0.5)
    small = prune(model, made)
    attention = next(module for module in small.modules() if isinstance(module, Attention))
    assert (attention.num_heads, attention.head_dim) == (2, 3)
    assert HEADS == 4


def test_the_one_plan_is_the_two_cuts() -> None:
    torch.manual_seed(0)
    model = randomized(create("resnet8"), dead=0.3).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias[module.weight == 0] = 0.3  # a constant that has to go somewhere
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    made = plan(model, images, importance=Random(seed=3), heads="both", macs=0.5, fold_tolerance=10.0)
    assert made.folds and made.shifts
    first = plan(model, images, importance=Random(seed=3), macs=str(int(made.macs[0] * 0.5**0.5)), fold_tolerance=10.0)
    halfway = prune(model, first).eval()
    second = plan(halfway, images, importance=Random(seed=3), macs=str(made.target), fold_tolerance=10.0)
    with torch.no_grad():
        stepwise, at_once = prune(halfway, second).eval()(images), prune(model, made).eval()(images)
    assert stepwise.shape == at_once.shape
    if second.removed.keys() == made.removed.keys() and second.params[1] == made.params[1]:
        assert largest_difference(stepwise, at_once) < 1e-10


@pytest.mark.parametrize("budget", [{"threshold": 0.1}, {"latency": 0.5}])
def test_other_budgets_are_refused_in_one_line(budget: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="heads=") as refused:
        plan(network("WindowAttention"), torch.zeros(1, TOKENS, 5), importance=Random(), heads="both", **budget)
    assert "\n" not in str(refused.value)


def test_a_plan_for_both_can_be_written_down() -> None:
    model = network("WindowAttention")
    made = plan(model, torch.zeros(1, TOKENS, 5).double(), importance=Random(), heads="both", channels=0.5)
    again = Plan.from_dict(made.as_dict())
    assert again.removed == made.removed and again.attributes == made.attributes
