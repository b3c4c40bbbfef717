"""Sketches of filters: the authors' results, the bound of the sketch, and rows that go to the channels they are like."""

from __future__ import annotations

import pytest
import torch
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError
from flowprune.methods.recovery import FilterSketch, frequent_directions
from flowprune.methods.recovery.filter_sketch import Form, aligned, rotated

torch.set_num_threads(1)


@pytest.mark.parametrize("number", [1, 2, 4, 5, 6, 8])
def test_sketches_are_the_authors(number: int):
    case = fixture(f"FilterSketch-fd-{number}")
    given_, wanted = case["inputs"], case["outputs"]
    weight = torch.tensor(given_["weight"], dtype=torch.float64)
    method = FilterSketch(
        form="original", along="memory", normalize=given_["weight_norm_method"] == "l2", tail="dropped"
    )
    sketch = method._along(weight, given_["l"], given_["dim"])
    expected = torch.tensor(wanted["sketch"], dtype=torch.float64)
    assert sketch.shape == expected.shape and float(sketch.norm()) == pytest.approx(wanted["frobenius"], abs=1e-9)
    rows = sketch.reshape(given_["l"], -1)
    torch.testing.assert_close(rows.T @ rows, torch.tensor(wanted["gram"], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(rows.abs(), expected.reshape(given_["l"], -1).abs(), rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(1, 9), st.integers(0, 10**6))
def test_second_moments_are_kept_within_the_bound_and_no_row_is_empty(count: int, more: int, width: int, seed: int):
    rows = torch.randn(count + more, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    sketch = frequent_directions(rows, count)
    assert sketch.shape == (count, width)
    lost = torch.linalg.eigvalsh(rows.T @ rows - sketch.T @ sketch)
    whole = float(rows.square().sum())
    assert -1e-9 * whole <= float(lost[0]) and float(lost[-1]) <= 2 * whole / count * (1 + 1e-9)
    if not more:
        assert torch.equal(sketch, rows)
    if 1 < count <= width:
        assert bool((sketch.norm(dim=1) > 0).all())


def test_rows_go_back_to_the_channels_they_are_like():
    torch.manual_seed(0)
    survivors = torch.randn(7, 20, dtype=torch.float64)
    order, signs = torch.randperm(7), torch.tensor([1, -1, 1, -1, -1, 1, 1.0], dtype=torch.float64)
    turned = 3 * (survivors + 0.01 * torch.randn_like(survivors))[order] * signs[:, None]
    torch.testing.assert_close(aligned(turned, survivors) / 3, survivors, rtol=0, atol=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_a_turned_sketch_has_the_same_moments_and_is_nearer_than_a_reordered_one(
    count: int, more: int, width: int, seed: int
):
    rows = torch.randn(count + more, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    survivors, sketch = rows[:count], frequent_directions(rows, count)
    turned, reordered = rotated(sketch, survivors), aligned(sketch, survivors)
    torch.testing.assert_close(turned.T @ turned, sketch.T @ sketch, rtol=0, atol=1e-9)
    assert (turned - survivors).norm() <= (reordered - survivors).norm() + 1e-9
    mixing = torch.linalg.qr(torch.randn(count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(rotated(mixing.Q @ survivors, survivors), survivors, rtol=0, atol=1e-8)


class Branching(nn.Module):
    """Two convolutions that make the same channels, a depthwise one that reads them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inside, self.back = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.back(torch.relu(self.inside(x))))
        return self.head(torch.relu(self.depthwise(x)).mean((2, 3)))


def halved() -> tuple[nn.Module, fp.Plan, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = Branching().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    plan = fp.plan(model, x, importance=fp.importance.L2(), channels=0.5)
    return model, plan, fp.prune(model, plan).eval(), x


@pytest.mark.parametrize("form", ["rotated", "aligned"])
def test_coupled_layers_are_sketched_as_one(form: Form):
    model, plan, small, x = halved()
    method = FilterSketch(form=form)
    sketched = fp.recover(small, model, plan, [x], recovery=method)
    assert set(method.sketched) == {"stem", "back", "inside"} and "grouped" in method.left["depthwise"]
    assert torch.equal(sketched.depthwise.weight, small.depthwise.weight)
    assert torch.equal(sketched.norm.weight, small.norm.weight)
    inside = [c for c in range(6) if c not in plan.removed["inside.weight"][0]]
    dense = torch.cat([model.stem.weight.flatten(1), model.back.weight[:, inside].flatten(1)], 1)
    rows = torch.cat([sketched.stem.weight.flatten(1), sketched.back.weight.flatten(1)], 1)
    wanted = frequent_directions(dense, 4)
    torch.testing.assert_close(rows.T @ rows, wanted.T @ wanted, rtol=0, atol=1e-10)
    kept = torch.cat([small.stem.weight.flatten(1), small.back.weight.flatten(1)], 1)
    assert bool(((rows * kept).sum(1) > 0).all())
    assert torch.isfinite(sketched(x)).all()


def test_the_authors_form_sketches_both_sides_and_begins_norms_anew():
    model, plan, small, x = halved()
    method = FilterSketch(form="original", normalize=True, tail="dropped")
    sketched = fp.recover(small, model, plan, [x], recovery=method)
    assert set(method.sketched) == {"stem", "inside", "back", "head"} and set(method.left) == {"depthwise"}
    assert torch.equal(sketched.norm.running_var, torch.ones(4, dtype=torch.float64))
    assert torch.equal(sketched.norm.bias, torch.zeros(4, dtype=torch.float64))
    assert all(
        float(sketched.get_submodule(name).weight.detach().norm()) == pytest.approx(1) for name in method.sketched
    )
    again = fp.recover(small, model, plan, [x], recovery=FilterSketch(form="original", normalize=True, tail="dropped"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in sketched.state_dict().items())


def test_what_is_wrong_is_one_line():
    for wrong in ({"form": "aline"}, {"along": "inputs"}, {"tail": "keep"}):
        with pytest.raises(FlowpruneError):
            FilterSketch(**wrong)
    for rows, count in ((torch.ones(3, 2), 4), (torch.ones(3, 2), 0), (torch.ones(3), 1)):
        with pytest.raises(FlowpruneError, match="cannot summarise"):
            frequent_directions(rows, count)
