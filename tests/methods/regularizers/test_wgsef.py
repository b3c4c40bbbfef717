"""The weighted group sparse envelope against public implementations of the k-support norm, and at work on whole channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixtures import double, fixture
from torch import nn

from flowprune import importance, plan
from flowprune.engine.interfaces import Training
from flowprune.errors import ModelError, RecipeError
from flowprune.methods.regularizers.wgsef import WGSEF, envelope, shares_kept

X = torch.zeros(1, 3, 8, 8)


def test_value_and_proximal_map_are_those_of_the_k_support_norm() -> None:
    given = fixture("ksupport-value-prox")
    for case, expected in zip(given["inputs"]["cases"], given["outputs"]["cases"], strict=True):
        x, costs = double(case["x"]), torch.ones(len(case["x"]), dtype=torch.float64)
        assert envelope(x.abs(), costs, case["k"]) == pytest.approx(expected["half_squared_norm_cvxpy"], abs=1e-8)
        for entry in expected["prox"]:
            u = shares_kept(x.abs(), costs, case["k"], entry["lam"])
            ours = torch.where(u > 0, x * u / (u + entry["lam"]), 0.0)
            torch.testing.assert_close(ours, double(entry["modopt"]), atol=1e-9, rtol=0)
            torch.testing.assert_close(ours, double(entry["cvxpy"]), atol=1e-5, rtol=0)


def test_groups_and_weights_agree_with_a_conic_solver() -> None:
    given = fixture("ksupport-groups-weights")
    weight = double(given["inputs"]["W"])
    lengths, ones = weight.flatten(1).norm(dim=1), torch.ones(6, dtype=torch.float64)
    assert envelope(lengths, ones, 3) == pytest.approx(given["outputs"]["group"]["half_squared"], abs=1e-6)
    for entry in given["outputs"]["group"]["prox"]:
        u = shares_kept(lengths, ones, 3, entry["lam"])
        ours = weight * (u / (u + entry["lam"])).view(-1, 1, 1, 1)
        torch.testing.assert_close(ours, double(entry["prox"]), atol=1e-9, rtol=0)
    for asked, expected in zip(given["inputs"]["weights"], given["outputs"]["weighted"], strict=True):
        costs, found = double(asked["d"]), expected["in_constraint"]
        assert envelope(lengths, costs, asked["budget"]) == pytest.approx(found["value"], abs=1e-5)
        for entry in found["prox"]:
            u = shares_kept(lengths, costs, asked["budget"], entry["lam"])
            torch.testing.assert_close(u / (u + entry["lam"]), double(entry["scale_per_group"]), atol=1e-5, rtol=0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.inner, self.inner_norm = nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        inside = self.inner_norm(self.inner(x)).relu()
        x = (x + self.last(self.depthwise(inside).relu())).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def trained(keep: float, steps: int = 40, **options: Any) -> tuple[nn.Module, WGSEF]:
    torch.manual_seed(0)
    model = Residual()
    method = WGSEF(model, inputs=X, keep=keep, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method.begin(Training(optimizer, 4, steps // 4))
    x, y = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    for step in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        method.after_step(optimizer, lambda: torch.zeros(()))
        if step % 10 == 9:
            method.epoch_end({})
    return model, method


def test_what_survives_costs_the_budget_or_more_by_less_than_a_channel_and_is_whole() -> None:
    model, method = trained(0.5, strength=3.0)
    outcome = method.finish()
    assert outcome.leaves
    lengths = method._lengths()
    surviving = float(method._costs[lengths > 0].sum())
    assert surviving < method.budget + float(method._costs.max())
    tensors = dict(model.named_parameters())
    for one in (
        "inner.weight",
        "inner.bias",
        "inner_norm.weight",
        "inner_norm.bias",
        "depthwise.weight",
        "depthwise.bias",
    ):
        assert not tensors[one][outcome.leaves["inner.weight"]].any(), one
    assert method.finish().leaves.keys() == outcome.leaves.keys()  # type: ignore[union-attr]
    assert all(torch.equal(method.finish().leaves[name], filters) for name, filters in outcome.leaves.items())  # type: ignore[index]
    cut = plan(model.eval(), X, importance=importance.L2(), macs=0.5)
    assert cut.macs[1] <= 0.5 * cut.macs[0]


def test_a_strong_envelope_leaves_few_channels_by_itself() -> None:
    _, weak = trained(0.4, steps=4, strength=1e-3)
    _, strong = trained(0.4, strength=10.0)
    assert weak.epoch_end({})["surviving_cost"] == 1
    assert strong.epoch_end({})["surviving_cost"] < 0.8


def test_a_norm_over_channels_keeps_them_and_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    method = WGSEF(model, inputs=torch.zeros(2, 6))
    assert [one.name for one in method._classes] == ["2"]
    assert "1 normalises over its channels" in method.left_out["0"]


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 1.5}, {"strength": -1}, {"keep": 0.01}, {"inputs": None}])
def test_options_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        WGSEF(Residual(), **{"inputs": X, **options})
    with pytest.raises(ModelError, match="begin"):
        WGSEF(Residual(), inputs=X).after_step(torch.optim.SGD([nn.Parameter(X)]), lambda: X)
