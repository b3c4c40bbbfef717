"""The groups of known networks are what a person would write down."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torture_networks import IMAGE, TORTURE

import flowprune.models as models
from flowprune.engine.coupling import CoupledGroup, rule
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import observe
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune


def groups_of(model: nn.Module, inputs: object) -> dict[str, CoupledGroup]:
    return {group.name: group for group in CoupledModel.of(model, inputs, ()).coupling.groups}


def test_a_cifar_resnet_has_one_group_a_block_and_one_a_stream_segment() -> None:
    groups = groups_of(models.create("resnet20"), torch.randn(1, 3, 32, 32))
    inner = {f"layer{stage}.{block}.conv1": 8 * 2**stage for stage in (1, 2, 3) for block in range(3)}
    # stage 1's 16 channels are the middle of stage 2's 32, which are the middle of stage 3's 64
    streams = {"conv1": 16, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    assert {name: group.channels for name, group in groups.items()} == inner | streams
    stem = groups["conv1"]
    makers = {member.name for member in stem.members if member.role == "output"}
    assert makers == {"conv1.weight"} | {f"layer{s}.{b}.conv2.weight" for s in (1, 2, 3) for b in range(3)}
    where = {member.name: member.indices[:, 0].tolist() for member in stem.members if member.role == "output"}
    assert where["layer2.0.conv2.weight"] == list(range(8, 24))
    assert where["layer3.2.conv2.weight"] == list(range(24, 40))


def test_a_flatten_gives_each_channel_its_run_of_columns() -> None:
    groups = groups_of(TORTURE["flatten and linear"](), torch.randn(1, *IMAGE))
    (columns,) = [m for m in groups["features.2.0"].members if m.name == "classifier.0.weight"]
    assert columns.dimension == 1 and columns.role == "input"
    assert columns.indices.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(24)]


def test_feature_maps_are_the_tensors_their_stage_says() -> None:
    torch.manual_seed(0)
    model = models.create("resnet20").eval()
    images = torch.randn(2, 3, 32, 32)
    group = groups_of(model, images)["layer1.0.conv1"]
    seen = {feature.stage: observe(model, images, [feature.position])[feature.position] for feature in group.maps}
    with torch.no_grad():
        entering = torch.relu(model.bn1(model.conv1(images)))
        made = model.layer1[0].conv1(entering)
        normalized = model.layer1[0].bn1(made)
    assert torch.equal(seen["convolution"], made)
    assert torch.equal(seen["normalized"], normalized)
    assert torch.equal(seen["activated"], torch.relu(normalized))
    added = next(f for f in groups_of(model, images)["conv1"].maps if f.stage == "added" and f.unit == "layer1.0.conv2")
    with torch.no_grad():
        assert torch.equal(observe(model, images, [added.position])[added.position], model.layer1[0](entering))


@torch.library.custom_op("flowprune_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@doubled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_unknown_operator_freezes_what_it_touches_and_is_named() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.second(doubled(self.first(x)))))

    model, images = Doubling(), torch.randn(1, 3, 12, 12)
    made = plan(model, images, importance=L2(), channels=0.5)
    assert "flowprune_tests.doubled" in made.frozen["first.weight"]
    assert set(made.removed) == {"second.weight", "second.bias", "last.weight"}

    from flowprune.engine.coupling.rules import _RULES
    from flowprune.engine.coupling.rules.pointwise import pointwise

    rule("flowprune_tests.doubled")(pointwise)  # a rule of one's own, and the layer is free
    try:
        made = plan(model, images, importance=L2(), channels=0.5)
        assert "first.weight" in made.removed
        prune(model, made)(images)
    finally:
        del _RULES["flowprune_tests.doubled"]


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:googlenet", "timm:test_resnet"]
)
def test_other_libraries_networks_are_prunable_but_for_the_classifier(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="the extra `zoo` is not installed")
    model = models.create(name)
    made = plan(model, torch.randn(1, 3, 96, 96), importance=L2(), channels=0.5)
    assert set(made.frozen.values()) == {"it is an output of the model"}
    assert len(made.frozen) == (3 if name.endswith("googlenet") else 1)  # two auxiliary classifiers, in training only
    assert prune(model, made).eval()(torch.randn(1, 3, 96, 96)).shape == (1, 1000)


def test_a_shuffle_net_shrinks_though_its_shuffles_tie_its_halves() -> None:
    """A channel that a chunk would put into both halves stays, with everything tied to it."""
    model = models.create("torchvision:shufflenet_v2_x1_0")
    made = plan(model, torch.randn(1, 3, 96, 96), importance=L2(), channels=0.5)
    assert made.params[1] < 0.6 * made.params[0]
    assert prune(model, made).eval()(torch.randn(1, 3, 96, 96)).shape == (1, 1000)
