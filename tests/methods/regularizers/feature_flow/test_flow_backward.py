"""The penalty's way through the backward pass: it joins gradients where they are, and disturbs nobody else's."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.feature_flow.maps.window_pooling import add_pooling_pull, pooled
from flowprune.models.resnet import CifarResNet
from flowprune.models.vgg import PlainNet

torch.set_num_threads(1)


def network() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(2, width=4).double()


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def features(model: CifarResNet, x: torch.Tensor) -> list[torch.Tensor]:
    found = [functional.relu(model.bn1(model.conv1(x)))]
    for block in [*model.layer1, *model.layer2, *model.layer3]:
        found.append(block(found[-1]))
    return found


def by_hand(model: CifarResNet, x: torch.Tensor) -> torch.Tensor:
    y = features(model, x)
    first = sum((b - a).abs().mean() for a, b in itertools.pairwise(y) if a.shape == b.shape)
    triples = zip(y, y[1:], y[2:], strict=False)
    second = sum((c - 2 * b + a).abs().mean() for a, b, c in triples if a.shape == c.shape)
    return 0.7 * first + 0.3 * second


def flow_of(model: nn.Module) -> FeatureFlow:
    return FeatureFlow(model, 0.7, 0.3, across="skip")


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(float((a - b).abs().max()) <= 1e-12 * max(1.0, float(b.abs().max())) for a, b in pairs)


@pytest.mark.parametrize("factor", [1.0, 128.0])
def test_with_a_task_loss_and_a_factor_the_gradients_are_those_of_the_sum(factor):
    model, x = network().eval(), images()
    weights = list(model.parameters())
    with flow_of(model) as flow:
        ours = torch.autograd.grad(factor * (model(x).pow(2).sum() + flow.penalty()), weights)
    theirs = torch.autograd.grad(factor * (model(x).pow(2).sum() + by_hand(model, x)), weights)
    assert same(ours, theirs)


@pytest.mark.parametrize("elements", [1, 100, 1000])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["residual", "plain"])
def test_it_does_not_matter_how_the_features_are_cut(kind, layout, elements, monkeypatch):
    """Pieces smaller than an image, and a last one with fewer images than the others, against one piece for everything."""
    torch.manual_seed(0)
    model = network() if kind == "residual" else PlainNet([3, 2, 3], hidden=False, width=4).double()
    model = model.to(memory_format=layout)
    x = images(7).contiguous(memory_format=layout)
    found = []
    for most in (elements, 10**9):
        monkeypatch.setattr("flowprune.methods.regularizers.feature_flow.penalty.pieces.ELEMENTS", most)
        with FeatureFlow(model, 0.7, 0.3, across="project") as flow:
            out = model(x)
            penalty = flow.penalty()
            found.append([penalty.detach(), *torch.autograd.grad(out.pow(2).sum() + penalty, list(model.parameters()))])
    assert same(*found) and found[0][0].item() > 0


def test_gradients_held_by_others_keep_their_values():
    """Sums hand one gradient to several: what is added for a feature must not appear at its neighbour or in a user's list."""
    torch.manual_seed(0)
    first, second, third = (nn.Conv2d(3, 3, 1).double() for _ in range(3))

    class Summing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = first, second, third

        def forward(self, x):
            self.other = self.second(x)
            y = self.first(x)
            return self.third(y + self.other)

    model, x = Summing(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    held = []
    with FeatureFlow(model, 2.0, points=["first", "third"]) as flow:
        out = model(x)
        model.other.register_hook(held.append)
        ours = torch.autograd.grad(out.pow(2).sum() + flow.penalty(), list(model.parameters()))
    y, other = first(x), second(x)
    out = third(y + other)
    other.register_hook(held.append)
    theirs = torch.autograd.grad(out.pow(2).sum() + 2 * (out - y).abs().mean(), list(model.parameters()))
    assert same(ours, theirs) and same(held[:1], held[1:])


def test_a_backward_pass_without_the_penalty_is_untouched_and_one_with_it_can_be_repeated():
    model, x = network().eval(), images()
    weights = list(model.parameters())
    flow = flow_of(model)
    out = model(x).pow(2).sum()
    penalty = flow.penalty()
    task = torch.autograd.grad(out, weights, retain_graph=True)
    both = [torch.autograd.grad(out + penalty, weights, retain_graph=True) for _ in range(2)]
    alone = torch.autograd.grad(penalty, weights, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(out, weights, retain_graph=True)
    part = torch.autograd.grad(out + penalty, [model.layer3[1].conv2.weight], retain_graph=True)
    after = torch.autograd.grad(out, weights)
    plain = torch.autograd.grad(model(x).pow(2).sum(), weights)
    expected = torch.autograd.grad(model(x).pow(2).sum() + by_hand(model, x), weights)
    assert same(task, plain) and same(again, plain) and same(after, plain)
    assert same(both[0], expected) and same(both[1], expected)
    position = next(i for i, weight in enumerate(weights) if weight is model.layer3[1].conv2.weight)
    assert same(part, [expected[position]])
    unused = [torch.zeros_like(w) if g is None else g for g, w in zip(alone, weights, strict=True)]
    assert same([a + b for a, b in zip(unused, plain, strict=True)], expected)


def test_frozen_beginnings_and_cut_networks():
    model, x = network().eval(), images()
    for parameter in [*model.conv1.parameters(), *model.bn1.parameters(), *model.layer1.parameters()]:
        parameter.requires_grad_(False)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with flow_of(model) as flow:
        ours = torch.autograd.grad(model(x).sum() + flow.penalty(), weights)
    theirs = torch.autograd.grad(model(x).sum() + by_hand(model, x), weights)
    assert same(ours, theirs)


def test_zeros_pull_at_nothing():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU()).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    flow = FeatureFlow(model, 1.0)
    model(torch.ones(1, 2, 3, 3, dtype=torch.float64))
    penalty = flow.penalty()
    penalty.backward()
    assert penalty.item() == 0 and all(not parameter.grad.any() for parameter in model.parameters())


def test_nothing_is_kept_after_the_backward_pass_although_the_loss_is():
    model, x = network(), images()
    flow = flow_of(model)
    model(x)
    features = flow._recorder.tape.forwards[-1].features
    stored = torch._C._storage_Use_Count
    pointers = [feature.untyped_storage() for feature in features]
    loss = flow.penalty()
    del features
    loss.backward()
    assert [stored(storage._cdata) for storage in pointers] == [1] * len(pointers)
    assert loss.requires_grad


@pytest.mark.parametrize("kernel", [(2, 2), (3, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_by_maps_is_pooling_by_windows_also_where_values_tie(kernel, layout):
    y = torch.randint(0, 3, (2, 3, 12, 8)).double().contiguous(memory_format=layout)
    pull = torch.randn(2, 3, 12 // kernel[0], 8 // kernel[1], dtype=torch.float64)
    leaf = y.clone().requires_grad_()
    expected = functional.max_pool2d(leaf, kernel)
    (gradient,) = torch.autograd.grad(expected, leaf, pull)
    before = torch.randn_like(y)
    into = before.clone()
    add_pooling_pull(y, pull, into, kernel)
    assert torch.equal(pooled(y, kernel), expected) and torch.equal(into, before + gradient)


def test_float32_in_both_layouts_is_the_reference_to_1e_5():
    torch.manual_seed(0)
    model, x = PlainNet([2, 2], hidden=False, width=8).eval(), torch.randn(8, 3, 16, 16)
    weights = list(model.parameters())
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        with FeatureFlow(model.to(memory_format=layout), 0.7, 0.3, across="project") as flow:
            model(x.contiguous(memory_format=layout))
            penalty = flow.penalty()
            results.append([penalty, *torch.autograd.grad(penalty, weights, allow_unused=True)])
    exact = model.double()
    with FeatureFlow(exact, 0.7, 0.3, across="project", norm=1) as flow:
        exact(x.double())
        penalty = flow.penalty()
        expected = [penalty, *torch.autograd.grad(penalty, list(exact.parameters()), allow_unused=True)]
    for ours in results:
        for a, b in zip(ours, expected, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))
