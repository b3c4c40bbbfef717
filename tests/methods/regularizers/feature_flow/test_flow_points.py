"""Which tensors the flow finds in networks of its own house, of torchvision, and in odd ones."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from flowprune import models
from flowprune.errors import ModelError, TraceError
from flowprune.methods.regularizers.feature_flow import FeatureFlow

torch.set_num_threads(1)


def captured(flow: FeatureFlow, model: nn.Module, *arguments, **keywords) -> list[torch.Tensor]:
    model(*arguments, **keywords)
    (forward,) = flow._recorder.take()
    return forward.features


def test_cifar_resnet_has_the_stem_and_every_block():
    model = models.create("resnet20")
    x = torch.randn(2, 3, 16, 16)
    flow = FeatureFlow(model, gradient=1.0, inputs=x)
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    assert [(point.name, point.kind) for point in flow.points] == [
        ("conv1", "stem"),
        *((name, "block") for name in blocks),
    ]
    model.eval()
    features = captured(flow, model, x)
    y = functional.relu(model.bn1(model.conv1(x)))
    for feature, block in zip(features, [None, *model.layer1, *model.layer2, *model.layer3], strict=True):
        y = y if block is None else block(y)
        assert torch.equal(feature, y)
    assert flow.left_out == {}


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet50", 16)])
def test_torchvision_resnet(name, blocks):
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    flow = FeatureFlow(model, gradient=1.0)
    features = captured(flow, model, x)
    y = model.maxpool(functional.relu(model.bn1(model.conv1(x))))
    expected = [y]
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            expected.append(block(expected[-1]))
    assert len(flow.points) == blocks + 1 and flow.points[0].kind == "stem"
    assert [point.name for point in flow.points][1:3] == ["layer1.0", "layer1.1"]
    for feature, right in zip(features, expected, strict=True):
        assert torch.equal(feature, right)
    model(x)
    flow.penalty()
    changing = {"resnet18": 3, "resnet50": 4}[name]
    assert len(flow.left_out) == changing and all("no parameter-free path" in why for why in flow.left_out.values())
    assert "layer1.1 -> layer2.0" in flow.left_out or name == "resnet50"
    with FeatureFlow(model, gradient=1.0, across="project") as projecting:
        model(x)
        projecting.penalty()
        assert projecting.left_out == {}


@pytest.mark.parametrize("name", ["vgg16", "torchvision:vgg16_bn"])
def test_vgg_has_every_convolution_after_its_activation(name):
    model = models.create(name).eval()
    x = torch.randn(1, 3, 32, 32)
    flow = FeatureFlow(model, gradient=1.0)
    features = captured(flow, model, x)
    expected = []
    y = x
    for module in model.features:
        y = module(y)
        if isinstance(module, nn.ReLU):
            expected.append(y)
    assert len(features) == len(expected) == 13
    for feature, right in zip(features, expected, strict=True):
        assert torch.equal(feature, right)
    convolutions = [
        f"features.{path}" for path, module in model.features.named_children() if isinstance(module, nn.Conv2d)
    ]
    assert [point.name for point in flow.points] == convolutions


def test_bottleneck_layers_take_every_unit_although_one_relu_serves_three():
    model = torchvision.models.resnet50(weights=None).eval()
    x = torch.randn(1, 3, 32, 32)
    flow = FeatureFlow(model, gradient=1.0, points="layers")
    features = captured(flow, model, x)
    assert len(features) == 49
    block = model.layer1[0]
    entering = model.maxpool(features[0])
    first = functional.relu(block.bn1(block.conv1(entering)))
    second = functional.relu(block.bn2(block.conv2(first)))
    for feature, right in zip(features[1:4], [first, second, block(entering)], strict=True):
        assert torch.equal(feature, right)


class Preactivated(nn.Module):
    """Blocks written out in the root's forward, an in-place ReLU on what the block before returned, and keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)

    def forward(self, image, *, scale=1.0):
        x = self.stem(image) * scale
        x = x + self.first(x.clone())
        x = x + self.second(x)
        return self.head(functional.relu(x).mean((2, 3)))


def test_blocks_without_modules_of_their_own_are_reached_or_named():
    model = Preactivated().eval()
    x = torch.randn(2, 3, 6, 6)
    flow = FeatureFlow(model, gradient=1.0)
    features = captured(flow, model, x, scale=2.0)
    stem = model.stem(x) * 2.0
    after_first = stem + model.first(stem.clone())
    assert any(torch.equal(feature, after_first) for feature in features)
    assert len(flow.points) + len(flow.left_out) == 3
    assert all(reason == "no module takes this tensor in or returns it" for reason in flow.left_out.values())


def test_a_point_that_is_overwritten_later_is_kept_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)).eval()
    flow = FeatureFlow(model, gradient=1.0, points=["0", "1", "3"])
    x = torch.randn(2, 3, 4, 4)
    features = captured(flow, model, x)
    assert torch.equal(features[1], model[1](model[0](x))) and bool((features[1] < 0).any())


def test_named_points_follow_the_order_in_which_they_run():
    model = models.create("resnet20")
    flow = FeatureFlow(model, gradient=1.0, points=["layer2.1", "layer1", "layer2"], inputs=torch.randn(1, 3, 8, 8))
    assert [point.name for point in flow.points] == ["layer1", "layer2.1", "layer2"]


def test_a_module_called_twice_is_two_points():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.unit = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.unit(self.unit(self.stem(x)))

    model = Shared()
    x = torch.randn(2, 3, 4, 4)
    flow = FeatureFlow(model, gradient=1.0)
    features = captured(flow, model, x)
    assert [point.name for point in flow.points] == ["stem", "unit", "unit#2"]
    assert torch.equal(features[2], model.unit(features[1])) and torch.equal(features[1], model.unit(features[0]))


def test_points_are_unknown_before_the_first_forward_and_it_says_so():
    model = models.create("resnet20")
    flow = FeatureFlow(model, gradient=1.0)
    with pytest.raises(ModelError, match="run it once, or pass inputs="):
        _ = flow.points
    with torch.no_grad():
        model(torch.randn(1, 3, 8, 8))
    assert len(flow.points) == 10


def test_narrower_targets_and_odd_strides_are_named():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
    )
    flow = FeatureFlow(model, gradient=1.0, across="project")
    model(torch.randn(1, 3, 10, 10))
    flow.penalty()
    assert flow.left_out == {
        "0 -> 1": "the shape changes from 8x10x10 to 4x10x10: the target is narrower",
        "1 -> 2": "the shape changes from 4x10x10 to 4x8x8: no integer stride does that",
        "2 -> 3": "the shape changes from 4x8x8 to 4x6x6: no integer stride does that",
    }


def test_nothing_to_find_and_nothing_to_compare_are_errors():
    x = torch.randn(2, 3)
    flow = FeatureFlow(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), gradient=1.0)
    with pytest.raises(ModelError, match="name its points"):
        flow._root(x)
    with pytest.raises(ModelError, match="name its points"):
        FeatureFlow(nn.Sequential(nn.Linear(3, 3)), gradient=1.0, inputs=x)
    growing = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1))
    flow = FeatureFlow(growing, gradient=1.0)
    growing(torch.randn(1, 3, 2, 2))
    with pytest.raises(ModelError, match=r"two adjacent points.*4x2x2 to 5x2x2"):
        flow.penalty()
    same = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    flow = FeatureFlow(same, curvature=1.0)
    same(torch.randn(1, 3, 2, 2))
    with pytest.raises(ModelError, match="three adjacent points"):
        flow.penalty()


def test_a_forward_that_cannot_be_traced_leaves_no_hooks():
    model = models.create("resnet20")
    with pytest.raises(TraceError):
        FeatureFlow(model, gradient=1.0, inputs=torch.randn(1, 5, 8, 8))
    assert not model._forward_hooks and not model._forward_pre_hooks
