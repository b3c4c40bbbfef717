"""The flow's own quantity as an importance, against hooks, against the profile of a flow, and by what it must rank lowest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flowprune.engine.planning import CoupledModel
from flowprune.methods.importance import FlowLength
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.models import create
from flowprune.pruning import prune

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def scattered(model: nn.Module) -> nn.Module:
    """The model with batch norms that are no identities, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def scores(model: nn.Module, **options: object) -> dict[str, Tensor]:
    groups = CoupledModel.of(model, IMAGES[:1]).coupling.groups
    found = FlowLength([IMAGES[:2], IMAGES[2:]], **options)(model, IMAGES[:1], groups)  # type: ignore[arg-type]
    return {group.name: score for group, score in zip(groups, found, strict=True)}


def taken(model: nn.Module, *names: str) -> list[Tensor]:
    """What the modules return, behind the activation."""
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda *called, name=name: seen.update({name: called[2]})) for name in names
    ]
    with torch.no_grad():
        model(IMAGES)
    for hook in hooks:
        hook.remove()
    return [seen[name].relu().double() for name in names]


def sizes(tensor: Tensor) -> Tensor:
    return tensor.abs().mean(dim=(0, 2, 3))


def test_the_stream_is_judged_by_its_steps_across_all_stages_it_runs_through() -> None:
    model = scattered(create("resnet14", width=4))
    found = scores(model, normalize="none")
    stem, a1, a2, b1, b2, c1, c2 = taken(
        model, "bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1"
    )
    # Option A puts 2 channels in front of the 4, then 4 in front of the 8.
    ways = [sizes(a1 - stem), sizes(a2 - a1), sizes(b2 - b1)[2:6], sizes(c2 - c1)[6:10]]
    torch.testing.assert_close(found["conv1"], torch.stack(ways).mean(0), rtol=1e-5, atol=1e-7)
    inside = taken(model, "layer2.1.bn1")[0]
    torch.testing.assert_close(found["layer2.1.conv1"], sizes(inside), rtol=1e-5, atol=1e-7)


class Block(nn.Module):
    """relu(x + branch(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)).relu()


def one_stage(seed: int) -> nn.Sequential:
    """A stem and three blocks of one shape: one stream."""
    torch.manual_seed(seed)
    blocks = [Block() for _ in range(3)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *blocks, *head).eval()


def test_the_lengths_add_up_to_what_the_profile_of_the_flow_says() -> None:
    model = one_stage(2)
    with FeatureFlow(model) as flow:
        profile = flow.profile([IMAGES])
    assert len(profile.points) == 4
    found = scores(model, normalize="none", aggregation="sum")["0"]
    assert float(found.mean()) == pytest.approx(profile.gradient, rel=1e-5)


def test_channels_that_do_not_move_leave_first_although_they_are_loud() -> None:
    model = one_stage(3)
    with torch.no_grad():
        model[0].weight[[1, 4]] *= 10
        for block in (model[2], model[3], model[4]):
            last = block.branch[2]
            last.weight[[1, 4]] = 0
            last.bias[[1, 4]] = 0
    found = scores(model)["0"]
    assert sorted(found.argsort()[:2].tolist()) == [1, 4]
    assert float(found[[1, 4]].sum()) == 0
    small = prune(model, IMAGES[:1], importance=FlowLength([IMAGES]), channels={"0": 4 / 6})
    torch.testing.assert_close(small[0].weight, model[0].weight[[0, 2, 3, 5]])


def test_a_plain_network_is_judged_by_its_maps() -> None:
    model = scattered(create("vgg6", width=3))
    found = scores(model, normalize="none")
    (inside,) = taken(model, "features.bn2_1")
    torch.testing.assert_close(found["features.conv2_1"], sizes(inside), rtol=1e-5, atol=1e-7)
