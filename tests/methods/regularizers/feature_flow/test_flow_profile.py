"""The profile: what the features of a network do, measured again by hand."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional

from flowprune.errors import DataError, ModelError
from flowprune.methods.regularizers.feature_flow import FeatureFlow, FlowProfile
from flowprune.models.resnet import CifarResNet
from flowprune.models.vgg import PlainNet

torch.set_num_threads(1)


def network() -> CifarResNet:
    torch.manual_seed(0)
    model = CifarResNet(2, width=4)
    model(torch.randn(16, 3, 8, 8))  # so that batch norm in evaluation mode has something to go by
    return model


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(count, 3, 8, 8, generator=generator), torch.zeros(count)) for count in (5, 2, 4)]


def by_hand(model: CifarResNet) -> tuple[list, list, list]:
    x = torch.cat([x for x, _ in batches()])
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        features = [functional.relu(model.bn1(model.conv1(x)))]
        steps, bends = [None], [None, None]
        carried = None
        for block in [*model.layer1, *model.layer2, *model.layer3]:
            y = features[-1]
            features.append(block(y))
            steps.append(features[-1] - block.shortcut(y))
            if carried is not None:
                bends.append(features[-1] - 2 * block.shortcut(y) + block.shortcut(carried))
            carried = block.shortcut(y)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return features, steps, bends


def test_a_profile_is_what_the_features_do():
    model = network()
    profile = FeatureFlow(model).profile(batches())
    features, steps, bends = by_hand(model)
    assert profile.images == 11 and len(profile.points) == 7
    for row, y, d, c in zip(profile.points, features, steps, bends, strict=True):
        assert row.shape == tuple(y.shape[1:])
        assert row.magnitude == pytest.approx(y.abs().mean().item(), rel=1e-5)
        assert (row.gradient is None) == (d is None) and (row.curvature is None) == (c is None)
        if d is not None:
            assert row.gradient == pytest.approx(d.abs().mean().item(), rel=1e-5)
            assert row.relative == pytest.approx(row.gradient / row.magnitude, rel=1e-9)
        if c is not None:
            assert row.curvature == pytest.approx(c.abs().mean().item(), rel=1e-5)
            assert 0 < row.angle < 3.1416
    by_channel = [value for y in features for value in y.abs().mean((0, 2, 3)).tolist()]
    assert profile.median_magnitude == pytest.approx(statistics.median(by_channel), rel=1e-5)
    assert profile.gradient == pytest.approx(sum(row.gradient or 0 for row in profile.points))
    assert profile.silent == 0


def test_silenced_branch_ends_are_counted_and_named():
    model = network()
    with torch.no_grad():
        for block, channels in ((model.layer1[1], [1, 3]), (model.layer2[0], [0])):
            block.bn2.weight[channels] = 0
            block.bn2.bias[channels] = 0
    profile = FeatureFlow(model).profile(batches())
    assert {row.name: row.silent for row in profile.points if row.silent} == {"layer1.1": (1, 3), "layer2.0": (0,)}
    assert profile.silent == 3
    assert profile.points[0].silent is None


def test_a_plain_network_has_no_branch_ends():
    torch.manual_seed(0)
    profile = FeatureFlow(PlainNet([2, 2], hidden=False, width=4)).profile(batches())
    assert [row.silent for row in profile.points] == [None] * 4
    assert all(row.gradient is not None for row in profile.points[1:])


def test_profiles_are_json_and_readable():
    model = network()
    flow = FeatureFlow(model, across="skip")
    profile = flow.profile(batches())
    assert isinstance(profile, FlowProfile)
    again = json.loads(json.dumps(profile.as_dict(), allow_nan=False))
    assert again == profile.as_dict()
    assert [row["name"] for row in again["points"]] == [point.name for point in flow.points]
    assert again["left_out"].keys() == {"layer1.1 -> layer2.0", "layer2.1 -> layer3.0"}
    assert 'across="project" includes it' in str(profile) and "layer3.1" in str(profile)


def test_profiling_leaves_no_trace():
    model = network()
    model.layer2.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flow = FeatureFlow(model, gradient=1.0)
    x = torch.randn(2, 3, 8, 8)
    model(x)
    flow.profile(batches())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert flow.penalty().requires_grad
    for name, value in state.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, model.state_dict()[name])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flow.profile(batches())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ModelError, match="no forward"):
        flow.penalty()


@pytest.mark.parametrize("kind", ["tensors", "pairs", "lists", "keywords"])
def test_batches_of_every_kind(kind):
    model = network()
    forms = {
        "tensors": [x for x, _ in batches()],
        "pairs": batches(),
        "lists": [list(pair) for pair in batches()],
        "keywords": [{"x": x} for x, _ in batches()],
    }
    expected = FeatureFlow(network()).profile(batches()).as_dict()
    assert FeatureFlow(model).profile(iter(forms[kind])).as_dict() == expected


@pytest.mark.parametrize("wrong", [[], ["image.png"], [(1, 2)], [()]])
def test_bad_batches_are_one_line(wrong):
    with pytest.raises(DataError) as caught:
        FeatureFlow(network()).profile(wrong)
    assert "\n" not in str(caught.value)


def test_a_network_of_zeros_has_no_relative_gradient():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    profile = FeatureFlow(model).profile(batches())
    assert profile.points[1].relative is None and profile.points[1].gradient == 0
    json.dumps(profile.as_dict(), allow_nan=False)
