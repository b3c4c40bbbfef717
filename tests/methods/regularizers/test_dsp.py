"""Dynamic structure pruning against its authors' code, from the penalty of a layer to whole steps and the masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixtures import double, fixture
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.engine.interfaces import Training
from flowprune.errors import ArtifactError, ModelError, RecipeError, UnknownNameError
from flowprune.methods.masks.group_channel import filter_mask, group_channel_mask, kept_by_running_sum
from flowprune.methods.regularizers import learned_groups as of
from flowprune.methods.regularizers.dsp import DSP
from flowprune.methods.regularizers.grouped_layers import means_of_profiles
from flowprune.methods.replacements.branched_convolution import with_branches


def close(ours: torch.Tensor, theirs: Any, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours.detach(), double(theirs), rtol=rtol, atol=atol)


def test_the_penalty_of_a_layer_and_its_gradients_are_the_authors() -> None:
    case = fixture("dsp-penalty")
    asked, expected = case["inputs"], case["outputs"]
    weight, logits = double(asked["W"]).requires_grad_(), double(asked["A"]).requires_grad_()
    chances = of.probabilities(logits, double(asked["gumbel_noise"]), asked["tau"])
    soft = chances.detach().requires_grad_()
    close(chances, expected["P"])
    value = of.penalty_by_group(weight, soft)
    close(value, expected["R_per_group"])
    by_autograd = torch.autograd.grad(value.sum(), (weight, soft))
    ours = of.weight_gradient(weight.detach(), soft.detach()), of.probability_gradient(weight.detach(), soft.detach())
    for one, other in zip(ours, by_autograd, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
    scale = of.layer_scale(asked["input_numel"], asked["kernel"], asked["groups"], 6)
    assert scale == pytest.approx(expected["scale"], rel=1e-12)
    close(scale * ours[0], expected["penalty_soft"])
    close(ours[1], expected["dR_dP"])
    (chances * ours[1]).sum().backward()
    assert logits.grad is not None
    close(logits.grad, expected["grad_A_of_sum_P_dRdP"])
    rate = asked["reg"] * asked["lr"] * (asked["steps"] + 1) / asked["total_steps"]
    close(weight - rate * scale * ours[0], expected["W_after_step"])
    hard = of.hard_groups(chances.detach())
    close(hard, expected["P_hard"])
    close(scale * of.weight_gradient(weight.detach(), hard), expected["penalty_hard"])


def test_the_mixed_term_of_the_code_is_offered_and_is_not_the_derivative() -> None:
    case = fixture("dsp-mixed-term")
    weight, chances, moved = (double(case["inputs"][name]) for name in ("W", "P", "V"))
    published, exact = (of.mixed_gradient(weight, chances, moved, how) for how in ("published", "exact"))  # type: ignore[arg-type]
    close(published, case["outputs"]["mixed_code"])
    close(exact, case["outputs"]["mixed_exact_by_autograd"], rtol=1e-5, atol=1e-7)
    assert float((published - exact).norm() / exact.norm()) > 0.5


class ThreeConvolutions(nn.Module):
    def __init__(self, strides: tuple[int, int, int] = (2, 1, 1)) -> None:
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 4, 3, stride=strides[0], padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 6, 3, stride=strides[1], padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 4, 3, stride=strides[2], padding=1, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn0(self.conv0(x)).relu()
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def test_whole_steps_are_the_authors_with_their_mixed_term_and_copied_momentum() -> None:
    case = fixture("dsp-bilevel-step")
    asked = case["inputs"]
    model = ThreeConvolutions(tuple(asked["strides"])).double()
    start = {name: double(values) for name, values in asked["initial_state"].items()}
    model.load_state_dict({name: values for name, values in start.items() if "group" not in name}, strict=False)
    options = {"groups": asked["groups"], "strength": asked["reg"], "temperature": asked["tau"], "mixed": "published"}
    method = DSP(model, inputs=torch.zeros(1, 3, 32, 32, dtype=torch.float64), **options)
    for name in ("conv1", "conv2"):
        method.logits[name].data.copy_(start[f"{name}.group"])
    optimizer = torch.optim.SGD(
        model.parameters(), lr=asked["lr"], momentum=asked["momentum"], weight_decay=asked["weight_decay"]
    )
    method.begin(Training(optimizer, 1, int(asked["total_steps"])))
    for step, theirs in enumerate(case["outputs"]["copied_momentum"]):
        x, y = double(asked["X"][step]), torch.tensor(asked["Y"][step])
        noises = asked["noise_per_step_per_layer"][step]
        method._noise = {name: double(noise) for name, noise in zip(("conv1", "conv2"), noises, strict=True)}
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        method.after_step(optimizer, lambda x=x, y=y: nn.functional.cross_entropy(model(x), y))  # type: ignore[misc]
        assert float(loss.detach()) == pytest.approx(theirs["loss"], rel=1e-9)
        now = model.state_dict()
        for name, values in theirs["after_dsp"].items():
            own = method.logits[name.removesuffix(".group")] if name.endswith(".group") else now[name]
            close(own, values)
        parameters = dict(model.named_parameters())
        for name, values in theirs["momentum"].items():
            close(optimizer.state[parameters[name]]["momentum_buffer"], values)


def test_masks_are_the_authors_but_where_their_index_slips() -> None:
    case = fixture("dsp-prune-decision")
    slipped = 0
    for theirs in case["outputs"]["cases"]:
        for name in ("conv1", "conv2"):
            weight, own = double(case["inputs"]["W"][name]), torch.tensor(case["inputs"]["group_of_filter"][name])
            ours = group_channel_mask(weight, own, theirs["beta"])
            key = "mask_conv1" if name == "conv1" else "mask_conv2_channels_only"
            expected = torch.tensor(theirs[key]) > 0
            for group, slips in enumerate(theirs["no_channel_qualifies_in_group"][name]):
                rows = own == group
                if slips:  # the fault: the whole group leaves where nothing of it may
                    assert not expected[rows].any() and ours[rows].all()
                    slipped += 1
                else:
                    assert torch.equal(ours[rows], expected[rows])
            if name == "conv2" and not any(theirs["no_channel_qualifies_in_group"][name]):
                both = ours & filter_mask(weight, theirs["beta"])[:, None]
                assert torch.equal(both, torch.tensor(theirs["mask_conv2_with_filter_rule"]) > 0)
    assert slipped > 3


@settings(max_examples=40, deadline=None)
@example([1.0, 1.0, 1.0], 0.5, 0.5)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=9), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_keeps_no_more(importance: list[float], low: float, high: float) -> None:
    worth = torch.tensor(importance, dtype=torch.float64)
    few, many = (kept_by_running_sum(worth, share) for share in (max(low, high), min(low, high)))
    assert not (few & ~many).any()
    assert float(worth[~few].sum()) <= max(low, high) * float(worth.sum()) + float(worth.max())


def train(model: nn.Module, method: DSP, optimizer: Any, begin: int, end: int) -> None:
    method.begin(Training(optimizer, 1, 10))
    for step in range(begin, end):
        draws = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 3, 8, 8, generator=draws), torch.arange(8) % 4
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        method.after_step(optimizer, lambda x=x, y=y: nn.functional.cross_entropy(model(x), y))  # type: ignore[misc]


@pytest.mark.parametrize("grouping", ["learned", "kmeans"])
def test_masks_meet_the_budget_and_the_packed_network_is_the_masked_one(grouping: Any) -> None:
    torch.manual_seed(0)
    model = ThreeConvolutions()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    options: dict[str, Any] = {"inputs": x[:1], "groups": 2, "macs": 0.5, "grouping": grouping, "strength": 0.01}
    method = DSP(model, **options)
    assert method.left_out == {
        "conv0": "the first convolution stays whole",
        "fc": "only convolutions have kernels that groups of filters could share",
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, method, optimizer, 0, 10)
    said = method.epoch_end({})
    assert said["strength"] == pytest.approx(0.01) and 0.5 <= said["sure"] <= 1
    masks = method.finish().masks
    assert masks is not None and set(masks) == {"conv1.weight", "conv2.weight"}
    for name, own in method.groups().items():
        kernels = masks[f"{name}.weight"][:, :, 0, 0]
        assert all((kernels[own == group] == kernels[own == group][:1]).all() for group in own.unique())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert 0.2 < kept / (24 * 9 * 2) <= 0.5
    packed = with_branches(model.eval(), masks)
    torch.testing.assert_close(packed(x), model(x), atol=1e-5, rtol=0)
    assert fp.measure(packed, x[:1]).macs < fp.measure(model, x[:1]).macs
    first = {name: value.clone() for name, value in model.state_dict().items()}

    model.train().load_state_dict(before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    method = DSP(model, **options)
    train(model, method, optimizer, 0, 4)
    again = DSP(model, **options)
    again.load_state_dict(method.state_dict())
    train(model, again, optimizer, 4, 10)
    again.finish()
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    with pytest.raises(ArtifactError, match="no state of dsp"):
        again.load_state_dict({"step": 1})
    with pytest.raises(ArtifactError, match="other groups"):
        DSP(model, **{**options, "groups": 3}).load_state_dict(method.state_dict())


def test_filters_with_alike_kernels_are_one_group() -> None:
    weight = torch.zeros(6, 4, 3, 3)
    weight[::2, :2], weight[1::2, 2:] = 1.0, -2.0
    own = means_of_profiles(weight, 2)
    assert own[::2].unique().numel() == own[1::2].unique().numel() == 1 and own[0] != own[1]
    assert means_of_profiles(torch.ones(4, 2, 1, 1), 3).unique().numel() == 1


def test_grouped_depthwise_linear_and_transformers_are_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.depthwise = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
            self.point, self.head = nn.Conv2d(4, 8, 1), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.point(self.depthwise(self.stem(x))).mean((2, 3)))
            return out

    method = DSP(Mixed(), inputs=torch.zeros(1, 3, 8, 8))
    assert set(method.left_out) == {"stem", "depthwise", "head"} and set(method.logits) == {"point"}
    with pytest.raises(ModelError, match="there is none"):
        DSP(nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoderLayer(4, 2)), inputs=torch.zeros(1, 2, 3))
    for options in ({"groups": 0}, {"strength": -1}, {"macs": 0}, {"inputs": None}):
        with pytest.raises(RecipeError):
            DSP(Mixed(), **{"inputs": torch.zeros(1, 3, 8, 8), **options})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        DSP(Mixed(), inputs=torch.zeros(1, 3, 8, 8), mixed="no")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="begin"):
        method.after_step(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), lambda: torch.zeros(()))
