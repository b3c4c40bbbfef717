"""The penalty against ten lines of float64 that share nothing with it: values and gradients to 1e-12."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.maps.magnitude import angle, magnitude
from flowprune.models.resnet import CifarResNet
from flowprune.models.vgg import PlainNet

torch.set_num_threads(1)
K1, K2 = 0.7, 0.3


def residual_features(model: CifarResNet, x: Tensor) -> list[Tensor]:
    features = [functional.relu(model.bn1(model.conv1(x)))]
    for block in [*model.layer1, *model.layer2, *model.layer3]:
        features.append(block(features[-1]))
    return features


def plain_features(model: PlainNet, x: Tensor) -> list[Tensor]:
    features = []
    for module in model.features:
        x = module(x)
        if isinstance(module, nn.ReLU):
            features.append(x)
    return features


def option_a(y: Tensor, shape: torch.Size) -> Tensor:
    missing = shape[1] - y.shape[1]
    return functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))


def pooled(y: Tensor, shape: torch.Size) -> Tensor:
    return functional.pad(functional.max_pool2d(y, 2), (0, 0, 0, 0, 0, shape[1] - y.shape[1]))


def reference(features, project, across, norm, reduction, form):
    """sum_l k1 |d_l| + k2 |c_l|, straight from the equations."""

    def carry(y, shape):
        return y if y.shape == shape else project(y, shape)

    def size(d):
        value = d.abs() if norm == 1 else ((d**2).mean((2, 3), keepdim=True) + 1e-300).sqrt().expand_as(d)
        return {"mean": value.mean(), "channel": value.mean((0, 2, 3)).sum(), "sum": value.mean(0).sum()}[reduction]

    def bend(a, b, c):
        if form == "second-difference":
            return size(c - 2 * b + a)
        u, v = functional.normalize((b - a).flatten(1), dim=1), functional.normalize((c - b).flatten(1), dim=1)
        return torch.acos((u * v).sum(1)).mean()

    total = 0
    for i in range(1, len(features)):
        y, z = features[i - 1], features[i]
        if across == "skip" and y.shape != z.shape:
            continue
        total = total + K1 * size(z - carry(y, z.shape))
        if i > 1 and not (across == "skip" and features[i - 2].shape != z.shape):
            before = carry(carry(features[i - 2], y.shape), z.shape)
            total = total + K2 * bend(before, carry(y, z.shape), z)
    return total


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    wanted = list(model.parameters())
    return [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(torch.autograd.grad(loss, wanted, allow_unused=True), wanted, strict=True)
    ]


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-12 * max(1.0, float(b.abs().max())))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


OPTIONS = list(
    itertools.product(
        ["residual", "plain"],
        ["skip", "project", None],
        [1, 2],
        ["mean", "channel", "sum"],
        ["second-difference", "angle"],
    )
)


@pytest.mark.parametrize(("kind", "across", "norm", "reduction", "form"), OPTIONS)
def test_penalty_and_gradients_equal_the_equations(images, kind, across, norm, reduction, form):
    torch.manual_seed(1)
    if kind == "residual":
        model, read, project = CifarResNet(2, width=4), residual_features, option_a
    else:
        model, read, project = PlainNet([3, 2, 2], hidden=False, width=4), plain_features, pooled
    model = model.double()
    with FeatureFlow(model, K1, K2, across=across, norm=norm, reduction=reduction, curvature_form=form) as flow:
        model(images)
        penalty = flow.penalty()
    expected = reference(read(model, images), project, across, norm, reduction, form)
    assert penalty.dtype == torch.float64 and penalty.dim() == 0 and penalty.item() > 0
    assert abs(penalty.item() - expected.item()) <= 1e-12 * expected.item()
    for ours, theirs in zip(gradients(penalty, model), gradients(expected, model), strict=True):
        assert close(ours, theirs)


def test_projection_without_a_path_of_its_own_subsamples_and_pads_with_zeros(images):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 7, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(7, 8, 3, padding=1),
        nn.ReLU(),
    ).double()
    flow = FeatureFlow(model, gradient=1.0, curvature=1.0, across="project")
    model(images)
    penalty = flow.penalty()
    a, b, c = model[:2](images), model[:4](images), model(images)
    narrow = functional.pad(a[:, :, ::2, ::2], (0, 0, 0, 0, 0, 3))
    wide_b, wide_a = functional.pad(b, (0, 0, 0, 0, 0, 1)), functional.pad(narrow, (0, 0, 0, 0, 0, 1))
    expected = (b - narrow).abs().mean() + (c - wide_b).abs().mean() + (c - 2 * wide_b + wide_a).abs().mean()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    assert flow.left_out == {}


def test_layers_are_all_units_and_end_blocks_in_their_output(images):
    torch.manual_seed(3)
    model = CifarResNet(1, width=4).double()
    flow = FeatureFlow(model, gradient=1.0, points="layers")
    model(images)
    features = [functional.relu(model.bn1(model.conv1(images)))]
    for block in (model.layer1[0], model.layer2[0], model.layer3[0]):
        features += [functional.relu(block.bn1(block.conv1(features[-1]))), block(features[-1])]
    pairs = [(y, z) for y, z in itertools.pairwise(features) if y.shape == z.shape]
    expected = sum((z - y).abs().mean() for y, z in pairs)
    assert len(pairs) == 4
    assert flow.penalty().item() == pytest.approx(expected.item(), rel=1e-12)


def test_norm_two_has_subgradient_zero_at_zero():
    difference = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    magnitude(difference, 2, "channel").backward()
    assert torch.equal(difference.grad, torch.zeros_like(difference))


def test_angle_is_zero_and_flat_where_a_difference_vanishes():
    before = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    before[0] = torch.randn(3, 2, 2)
    before.requires_grad_()
    after = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    value = angle(before, after)
    value.backward()
    assert torch.isfinite(before.grad).all() and torch.isfinite(after.grad).all()
    assert not before.grad[1].any() and not after.grad[1].any() and before.grad[0].any()
    only = angle(before[:1], after[:1])
    assert value.item() == pytest.approx(only.item() / 2, rel=1e-12)


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_angle_is_exact_at_its_ends(factor):
    u = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert float(angle(u, 3 * factor * u)) == pytest.approx(0.0 if factor > 0 else math.pi, abs=1e-12)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "channel", "sum"])
def test_gradcheck_of_the_magnitudes(norm, reduction):
    difference = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: magnitude(d, norm, reduction), (difference,))


def test_gradcheck_of_the_angle_and_of_a_whole_penalty():
    u, v = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(angle, (u, v))
    torch.manual_seed(4)
    model = CifarResNet(1, width=2).double().eval()
    flow = FeatureFlow(model, gradient=1.0, curvature=0.5, norm=2)

    def penalty(x: Tensor) -> Tensor:
        model(x)
        return flow.penalty()

    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, (x,))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(1, 4),
    st.floats(0.01, 100),
    st.integers(0, 10**6),
)
def test_magnitudes_are_homogeneous_and_the_reductions_differ_by_their_counts(
    images, channels, rank, side, factor, seed
):
    shape = (images, channels, *[side] * rank)
    difference = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for norm in (1, 2):
        sizes = {reduction: float(magnitude(difference, norm, reduction)) for reduction in ("mean", "channel", "sum")}
        assert sizes["channel"] == pytest.approx(channels * sizes["mean"], rel=1e-12)
        assert sizes["sum"] == pytest.approx(side**rank * sizes["channel"], rel=1e-12)
        assert float(magnitude(-factor * difference, norm, "mean")) == pytest.approx(factor * sizes["mean"], rel=1e-9)
    assert magnitude(difference, 1, "mean") <= magnitude(difference, 2, "mean") + 1e-12
