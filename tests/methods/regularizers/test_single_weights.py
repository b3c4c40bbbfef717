"""ISS-P against the authors' code, and both methods that select single weights during training, at work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixtures import double, fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowprune import plan
from flowprune.engine.interfaces import Regularizer, Training
from flowprune.errors import ArtifactError, ModelError, RecipeError, UnknownNameError
from flowprune.methods.regularizers.issp import ISSP
from flowprune.methods.regularizers.strength.cubic_sparsity import cubic_sparsity
from flowprune.methods.regularizers.tpp import pruned
from flowprune.methods.regularizers.weightmom import WeightMom, shared_out


def alone(weight: torch.Tensor, **options: Any) -> tuple[nn.Conv2d, ISSP, torch.optim.Optimizer]:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, bias=False).double()
    layer.weight.data.copy_(weight)
    method = ISSP(layer, dense=(), **options)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    method.begin(Training(optimizer, 1, 100))
    return layer, method, optimizer


def test_weights_shrink_as_with_the_authors() -> None:
    case = fixture("issp-shrink")
    asked, expected = case["inputs"], case["outputs"]
    weight, options = double(asked["W"]), {"ratio": asked["pr"], "rho": asked["rho"], "pruning": 1.0}
    for steps, theirs in expected["after_k_steps"].items():
        layer, method, optimizer = alone(weight, **options)
        for _ in range(int(steps)):
            method.after_step(optimizer, lambda: torch.zeros(()))
        torch.testing.assert_close(layer.weight.detach(), double(theirs["W"]), atol=1e-12, rtol=0)
        assert (~method._masks["weight"]).flatten().nonzero().flatten().tolist() == theirs["pruned_sorted"]
    layer, method, optimizer = alone(weight, **{**options, "rho": 0.0})
    method.after_step(optimizer, lambda: torch.zeros(()))
    torch.testing.assert_close(layer.weight.detach(), double(expected["hard_threshold"]), atol=1e-12, rtol=0)
    layer, method, optimizer = alone(weight, **options)
    for _ in range(asked["steps"]):
        optimizer.zero_grad()
        ((layer.weight - double(asked["T"])).square().sum() / 2).backward()
        optimizer.step()
        method.after_step(optimizer, lambda: torch.zeros(()))
    torch.testing.assert_close(layer.weight.detach(), double(expected["run"]["W_end"]), atol=1e-12, rtol=0)
    masks = method.finish().masks
    assert masks is not None and torch.equal(masks["weight"].double(), double(expected["run"]["final_mask"]))
    assert torch.equal(layer.weight != 0, masks["weight"])


def test_counts_are_the_authors_and_what_stays_whole_does() -> None:
    """In N:M mode theirs prunes 54 of 108 weights of a layer whose ratio is 0; ours prunes nothing that stays."""
    case = fixture("issp-selection")
    assert [pruned(row["n"], row["pr"]) for row in case["inputs"]["counts"]] == case["outputs"]["num_pruned"]
    assert case["outputs"]["num_pruned_with_ratio_0_of_108"]["min_2:4"] == 54
    _, method, _ = alone(torch.rand(4, 3, 3, 3), granularity="n_m", ratio=0.0)
    assert method._masks["weight"].all()
    _, method, _ = alone(torch.rand(4, 3, 3, 3), granularity="n_m", ratio=0.7)
    assert method._masks["weight"].view(-1, 4).sum(1).tolist() == [1] * 27


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 1.0), st.integers(0, 99))
def test_rho_0_is_hard_thresholding(ratio: float, seed: int) -> None:
    weight = torch.rand(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5
    layer, method, optimizer = alone(weight, ratio=ratio, rho=0.0, pruning=1.0)
    method.after_step(optimizer, lambda: torch.zeros(()))
    count = pruned(weight.numel(), ratio)
    smallest = weight.flatten().abs().sort().indices[:count]
    assert torch.equal(layer.weight.detach(), weight.flatten().index_fill(0, smallest, 0.0).view_as(weight))


class Network(nn.Module):
    """With a grouped, a depthwise and a pointwise convolution, attention and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.depthwise(self.grouped(self.norm(self.stem(x)).relu()).relu())).relu()
        tokens = x.flatten(2).mT
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        out: torch.Tensor = self.head(self.hidden(tokens.mean(1)).relu())
        return out


X = torch.zeros(1, 3, 6, 6)


def run(
    model: nn.Module, method: Regularizer, steps: int, start: int = 0, total: int = 18, **kept: Any
) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = kept.get("optimizer") or torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9
    )
    method.begin(Training(optimizer, 3, total // 3))
    draws = torch.Generator().manual_seed(start)
    for step in range(start, steps):
        draws.manual_seed(step)
        x, y = torch.randn(8, 3, 6, 6, generator=draws), torch.arange(8) % 4
        outputs = model(x)
        task = nn.functional.cross_entropy(outputs, y)
        loss = task + method.penalty(task.detach(), batch=(x, y), outputs=outputs)
        optimizer.zero_grad()
        loss.backward()
        method.after_backward()
        optimizer.step()
        method.after_step(optimizer, lambda: torch.zeros(()))
    return optimizer


METHODS: list[tuple[type[Any], dict[str, Any]]] = [
    (ISSP, {"ratio": 0.7, "pruning": 0.5}),
    (ISSP, {"ratio": 0.5, "granularity": "n_m", "pruning": 0.5}),
    (ISSP, {"ratio": 0.5, "form": "growing", "every": 2, "pruning": 0.8}),
    (WeightMom, {"weights": 0.3, "rounds": 5}),
    (WeightMom, {"weights": 0.3, "score": "random", "rounds": 3}),
]


@pytest.mark.parametrize(("kind", "options"), METHODS)
def test_masks_are_exact_zeros_in_the_end_and_a_resumed_training_is_the_same(
    kind: type[Any], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method = kind(model, **options)
    run(model, method, 18)
    masks = method.finish().masks
    tensors = dict(model.named_parameters())
    assert set(masks) == {
        "grouped.weight",
        "depthwise.weight",
        "point.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "hidden.weight",
    }
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    if kind is WeightMom:
        assert kept == int(0.3 * total + 1e-6)
    else:
        assert abs(kept / total - (1 - options["ratio"])) < 0.02
    assert all(not tensors[name][~mask].any() for name, mask in masks.items())
    first = {name: value.clone() for name, value in model.state_dict().items()}

    model.load_state_dict(before)
    method = kind(model, **options)
    optimizer = run(model, method, 8)
    again = kind(model, **options)
    again.load_state_dict(method.state_dict())
    run(model, again, 18, start=8, optimizer=optimizer)
    masks_again = again.finish().masks
    assert all(torch.equal(mask, masks_again[name]) for name, mask in masks.items())
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    with pytest.raises(ArtifactError, match="no state of"):
        again.load_state_dict({"masks": {}})
    with pytest.raises(ArtifactError, match="other weights"):
        again.load_state_dict({**again.state_dict(), "masks": {"stem.weight": torch.ones(2) > 0}})


def test_whole_channels_shrink_and_what_is_zero_leaves_without_a_change() -> None:
    torch.manual_seed(0)
    model = Network()
    method = ISSP(model, inputs=X, granularity="filter", ratio=0.5, pruning=0.5)
    run(model, method, 18)
    outcome = method.finish()
    assert outcome.leaves is not None and len(outcome.leaves["hidden.weight"]) == 6
    tensors = dict(model.named_parameters())
    assert all(not tensors[name][filters].any() for name, filters in outcome.leaves.items())
    assert not model.hidden.bias[outcome.leaves["hidden.weight"]].any()
    made = plan(model.eval(), X, outcome=outcome)
    assert made.removed["hidden.weight"][0]
    assert method.epoch_end({})["shrunk"] == 0


def test_the_growing_form_pulls_through_gradients_and_soft_shrinkage_lets_weights_return() -> None:
    layer, method, optimizer = alone(
        torch.rand(2, 2, 3, 3, dtype=torch.float64) + 0.5, form="growing", delta=0.1, every=1, ratio=0.5
    )
    layer.weight.grad = torch.zeros_like(layer.weight)
    method._step = 3
    method.after_backward()
    expected = 0.3 * layer.weight * ~method._masks["weight"]
    torch.testing.assert_close(layer.weight.grad, expected.detach())
    layer, method, optimizer = alone(
        torch.tensor([[[[0.1] * 3] * 3], [[[1.0] * 3] * 3]]).double(), ratio=0.5, pruning=1.0
    )
    method.after_step(optimizer, lambda: torch.zeros(()))
    layer.weight.data[0].add_(5)
    method.after_step(optimizer, lambda: torch.zeros(()))
    assert method._masks["weight"][0].all() and not method._masks["weight"][1].any()


def test_the_schedule_and_the_quotas() -> None:
    assert [cubic_sparsity(0.9, step, 10) for step in (0, 10, 12)] == [0.0, 0.9, 0.9]
    assert cubic_sparsity(0.9, 1, 10) > 2 * 0.9 / 10  # fast at first
    assert shared_out(5, [10, 10, 0]) == [3, 2, 0] and shared_out(-1, [3]) == [0] and sum(shared_out(7, [1, 5, 3])) == 7


def test_an_average_outlives_one_low_value() -> None:
    """A weight that is small only now stays; one that was always small goes."""
    layer = nn.Linear(4, 1, bias=False)
    method = WeightMom(layer, weights=0.5, rounds=1, until=1.0, dense=())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    method.begin(Training(optimizer, 1, 4))
    for values in ([5.0, 4.0, 1.0, 1.0], [5.0, 4.0, 1.0, 1.0], [5.0, 4.0, 1.0, 1.0], [0.1, 4.0, 1.0, 1.0]):
        layer.weight.data.copy_(torch.tensor([values]))
        method.after_step(optimizer, lambda: torch.zeros(()))
    assert (method.finish().masks or {})["weight"].tolist() == [[True, True, False, False]]


def test_options_that_are_none_are_refused_in_a_line() -> None:
    model = Network()
    for options in ({"ratio": 1.2}, {"rho": 1.0}, {"pruning": -1}, {"dense": ["nothing"]}, {"delta": -1}):
        with pytest.raises(RecipeError, match=next(iter(options))):
            ISSP(model, **options)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        ISSP(model, form="soft")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="inputs="):
        ISSP(model, granularity="filter")
    for options in ({"weights": 0}, {"momentum": 1}, {"rounds": 0}, {"until": 2}, {"dense": ["*"]}):
        with pytest.raises(RecipeError):
            WeightMom(model, **options)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        WeightMom(model, score="nothing")
    for method in (ISSP(model), WeightMom(model)):
        with pytest.raises(ModelError, match="begin"):
            method.after_step(torch.optim.SGD(model.parameters(), lr=0.1), lambda: torch.zeros(()))
