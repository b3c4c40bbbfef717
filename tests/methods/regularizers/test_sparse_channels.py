"""DAFP against its first author's code, both controllers, network slimming and group lasso on real networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixtures import double, fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.engine.interfaces import Training
from flowprune.errors import ArtifactError, ModelError, RecipeError, UnknownNameError, UnreachableBudgetError
from flowprune.methods.allocators import REGISTRY as ALLOCATORS
from flowprune.methods.importance.dependency_aware import kept_at, sparsity_at, threshold_for
from flowprune.methods.regularizers.dafp import DAFP
from flowprune.methods.regularizers.group_lasso import GroupLasso
from flowprune.methods.regularizers.network_slimming import NetworkSlimming
from flowprune.methods.regularizers.strength.sparsity_gain import SparsityGain

X = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(("name", "lowering"), [("dafp-controller", "rising"), ("strucspars-controller", "always")])
def test_the_strength_goes_as_with_the_authors(name: str, lowering: Any) -> None:
    case = fixture(name)
    asked = case["inputs"]
    warm_up = {"warm_up": asked.get("warmup", 0), "lowering": lowering}
    for row in case["outputs"]["cases"]:
        control = SparsityGain(asked["target"], asked["E"], asked["delta"], **warm_up)
        used, after = [], []
        for sparsity in row["sparsity"]:
            used.append(control.applied)
            control.epoch_end(sparsity)
            after.append(control.strength)
        assert used == pytest.approx(row["lambda_used_in_epoch"], rel=1e-12, abs=1e-18)
        assert after == pytest.approx(row["lambda_after_epoch"], rel=1e-12, abs=1e-18)
    loop, theirs = asked["closed_loop"], case["outputs"]["closed_loop"]
    control = SparsityGain(loop["target"], loop["E"], loop["delta"], **{**warm_up, "warm_up": loop.get("warmup", 0)})
    last, seen = 0.0, []
    for _ in range(loop["E"]):
        last = min(1.0, last + 0.4 * control.applied / (1e-4 if lowering == "rising" else 2e-5) * (1 - last))
        seen.append(last)
        control.epoch_end(last)
    assert seen == pytest.approx(theirs["sparsity"], rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 0.9), st.floats(0.1, 0.5), st.sampled_from(["rising", "always"]))
def test_a_controller_drives_a_plant_that_answers_to_its_target(target: float, speed: float, lowering: Any) -> None:
    """A plant that becomes sparser the stronger it is pushed, and never less sparse: it arrives, and then the push ends."""
    control = SparsityGain(target, 200, 1e-2, lowering)
    sparsity = 0.0
    for _ in range(200):
        sparsity = min(1.0, sparsity + speed * control.applied * (1 - sparsity))
        control.epoch_end(sparsity)
    assert sparsity >= target - 0.02
    again = SparsityGain(target, 200, 1e-2, lowering)
    again.load_state_dict(control.state_dict())
    assert again == control
    with pytest.raises(ArtifactError, match="another target"):
        SparsityGain(target / 2, 200, 1e-2, lowering).load_state_dict(control.state_dict())


def test_importance_threshold_and_masks_are_the_first_authors() -> None:
    case = fixture("dafp-importance")
    layers = {name: double(values) for name, values in case["outputs"]["importance"].items()}
    for name, gamma in case["inputs"]["gamma"].items():
        ours = double(gamma).abs() * double(case["inputs"]["next_weight_abs_mean"][name])
        torch.testing.assert_close(ours, layers[name], atol=1e-12, rtol=0)
    every = list(layers.values())
    for row in case["outputs"]["sparsity"]:
        assert sparsity_at(every, row["thres"]) == pytest.approx(row["sparsity"], abs=1e-6)
    for row in case["outputs"]["threshold"]:
        assert threshold_for(every, row["target"]) == row["threshold"]
    second = case["outputs"]["threshold"][1]["threshold"]
    for threshold, masks in ((second, "mask_at_second_threshold"), (0.9, "mask_at_0_9")):
        for name, theirs in case["outputs"][masks].items():
            assert kept_at(layers[name], threshold).int().tolist() == theirs


class PreActivation(nn.Module):
    """bn -> relu -> the convolution that reads it: the importance is of exactly these two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.inner, self.bn2 = nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn2(self.inner(self.bn1(self.stem(x)).relu())).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model


def test_importance_reads_scale_and_consumer_in_a_real_network() -> None:
    model = randomised(PreActivation())
    method = DAFP(model, inputs=X, target=0.3)
    scores = method.finish().scores
    assert scores is not None
    head = model.bn2.weight.abs() * model.head.weight.abs().mean(0)
    torch.testing.assert_close(scores["inner.weight"], (head / head.max()).double(), atol=1e-6, rtol=0)
    plain = fp.models.create("resnet20")
    made = fp.plan(plain, torch.zeros(1, 3, 32, 32), importance=fp.importance.DAFP(), macs=0.5)
    assert made.macs[1] <= 0.5 * made.macs[0]


def test_the_relative_threshold_meets_a_budget_and_keeps_eight_channels() -> None:
    model = randomised(fp.models.create("resnet20"))
    x = torch.zeros(1, 3, 32, 32)
    made = fp.plan(model, x, importance=fp.importance.DAFP(), allocator=ALLOCATORS["relative_threshold"](), macs=0.6)
    assert 0.55 * made.macs[0] < made.macs[1] <= 0.6 * made.macs[0]
    small = fp.prune(model, made)
    assert all(one.out_channels >= 8 for one in small.modules() if isinstance(one, nn.Conv2d))
    with pytest.raises(UnreachableBudgetError, match="least=14"):
        fp.plan(
            model, x, importance=fp.importance.DAFP(), allocator=ALLOCATORS["relative_threshold"](least=14), macs=0.2
        )


def step(model: nn.Module, method: Any, optimizer: torch.optim.Optimizer) -> float:
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    task = nn.functional.cross_entropy(model(x), y)
    loss = task + method.penalty(task.detach())
    optimizer.zero_grad()
    loss.backward()
    method.after_backward()
    optimizer.step()
    method.after_step(optimizer, lambda: loss)
    return float((loss - task).detach())


def test_dafp_pushes_until_the_target_and_leaves_are_what_the_threshold_says() -> None:
    torch.manual_seed(0)
    model = PreActivation()
    method = DAFP(model, inputs=X, target=0.2, delta=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method.begin(Training(optimizer, 6, 5))
    assert step(model, method, optimizer) == 0  # it begins at 0
    said = [method.epoch_end({})]
    for _ in range(5):
        for _ in range(5):
            step(model, method, optimizer)
        said.append(method.epoch_end({}))
    assert said[0]["strength"] == 0 and said[1]["strength"] == 0.05 and said[2]["strength"] > 0.05
    again = DAFP(model, inputs=X, target=0.2, delta=0.05)
    again.load_state_dict(method.state_dict())
    again.begin(Training(optimizer, 6, 5))
    assert again._control == method._control
    outcome = method.finish()
    leaves = outcome.leaves or {}
    assert outcome.scores is not None and leaves
    for name, scores in outcome.scores.items():
        assert len(leaves.get(name, [])) <= len(scores) - 8
        assert all(scores[filter_] <= scores.median() for filter_ in leaves.get(name, []))
    cut = fp.plan(model.eval(), X, outcome=outcome)
    assert cut.macs[1] < cut.macs[0]


def test_slimmings_gradient_is_the_sign_and_its_threshold_is_global() -> None:
    model = randomised(PreActivation())
    method = NetworkSlimming(model, inputs=X, strength=0.01, ratio=0.5)
    method.penalty().backward()
    assert torch.equal(model.bn1.weight.grad, 0.01 * model.bn1.weight.sign())
    outcome = method.finish()
    every = torch.cat([model.bn1.weight, model.bn2.weight]).abs().detach().sort().values
    leaves = outcome.leaves or {}
    assert leaves["stem.weight"].tolist() == (model.bn1.weight.abs() < every[11]).nonzero().flatten().tolist()
    assert len(leaves["stem.weight"]) + len(leaves["inner.weight"]) == 11
    model.bn1.weight.data.mul_(1e-6)  # a whole layer below the threshold: two of it stay
    assert len((method.finish().leaves or {})["stem.weight"]) == 10
    assert NetworkSlimming(model, inputs=X).finish().leaves is None


def test_group_lasso_is_the_sum_of_lengths_and_shrinks_channels() -> None:
    model = randomised(PreActivation())
    method = GroupLasso(model, inputs=X, strength=0.1, eps=0.0)
    expected = (
        3**0.5 * model.stem.weight.flatten(1).norm(dim=1).sum()
        + 108**0.5 * model.inner.weight.flatten(1).norm(dim=1).sum()
    )
    torch.testing.assert_close(method.penalty(), 0.1 * expected)
    method = GroupLasso(model, inputs=X, strength=0.1)
    model.stem.weight.data[0] = 0.0
    method.penalty().backward()
    assert torch.isfinite(model.stem.weight.grad).all() and not model.stem.weight.grad[0].any()
    scores = method.finish().scores
    assert scores is not None and float(scores["stem.weight"].argmin()) == 0
    stream = GroupLasso(fp.models.create("resnet8"), inputs=torch.zeros(1, 3, 32, 32)).finish().scores
    assert stream is not None and torch.equal(stream["conv1.weight"], stream["layer1.0.conv2.weight"])


@pytest.mark.parametrize("kind", [DAFP, NetworkSlimming, GroupLasso])
def test_what_has_no_batch_norm_is_named(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    if kind is GroupLasso:
        assert (GroupLasso(model, inputs=torch.zeros(2, 6)).finish().scores or {})["0.weight"].shape == (8,)
    else:
        with pytest.raises(ModelError, match="batch norm"):
            kind(model, inputs=torch.zeros(2, 6))
    with pytest.raises(RecipeError, match="inputs="):
        kind(PreActivation())


def test_options_that_are_none_are_refused() -> None:
    for options in ({"target": 1.0}, {"delta": 0}, {"threshold": 2}, {"warm_up": -1}):
        with pytest.raises(RecipeError):
            DAFP(PreActivation(), inputs=X, **options)
    with pytest.raises(UnknownNameError):
        DAFP(PreActivation(), inputs=X, controller="no")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="ratio"):
        NetworkSlimming(PreActivation(), inputs=X, ratio=1.5)
    with pytest.raises(RecipeError, match="strength"):
        GroupLasso(PreActivation(), inputs=X, strength=-1)
    with pytest.raises(ArtifactError):
        DAFP(PreActivation(), inputs=X).load_state_dict({"step": 1})
