"""Points in different layouts of one stream are compared element by element, at any batch and image size."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.studies.flow_paths import flow_paths

WIDTH = 4


class WindowedBlock(nn.Module):
    """As in a Swin: attention's residual on [N, H, W, C], the perceptron's on [N, H * W, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixing, self.perceptron = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x + self.mixing(self.first(x))
        x = x.reshape(shape[0], -1, shape[-1])
        x = x + self.perceptron(self.second(x))
        return x.reshape(shape)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = x + self.mixing(self.first(x))
        return middle, middle + self.perceptron(self.second(middle))


class Windowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, 2, 2)
        self.blocks = nn.Sequential(WindowedBlock(), WindowedBlock())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2))

    def states(self, x: Tensor) -> list[Tensor]:
        found = [self.stem(x).permute(0, 2, 3, 1)]
        for block in self.blocks:
            found += block.states(found[-1])
        return found


@pytest.mark.parametrize("norm_of_term", ["gradient", "curvature"])
@pytest.mark.parametrize("size", [(2, 8, 8), (3, 8, 12)], ids=["as traced", "another"])
def test_the_penalty_is_that_of_the_stream_in_one_layout(norm_of_term: str, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = Windowed().double()
    flow = FeatureFlow(model, **{norm_of_term: 1.0}, inputs=torch.randn(2, 1, 8, 8, dtype=torch.float64))
    assert [point.name for point in flow.points] == ["stem", "blocks.0", "blocks.0#2", "blocks.1", "blocks.1#2"]
    assert not flow.left_out
    x = torch.randn(size[0], 1, *size[1:], dtype=torch.float64)
    model(x)
    penalty = flow.penalty()
    ours = torch.autograd.grad(penalty, model.parameters(), allow_unused=True)
    states = model.states(x)
    steps = [later - earlier for earlier, later in pairwise(states)]
    if norm_of_term == "curvature":
        steps = [later - earlier for earlier, later in pairwise(steps)]
    expected = sum(step.abs().mean() for step in steps)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    theirs = torch.autograd.grad(expected, model.parameters(), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-10, atol=1e-14)


def test_a_stage_goes_on_through_its_layouts() -> None:
    torch.manual_seed(0)
    model = Windowed().double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    (stage,) = flow_paths(model, [x]).stages
    assert stage.points == ("stem", "blocks.0", "blocks.0#2", "blocks.1", "blocks.1#2")
    steps = [(later - earlier).flatten(1).norm(dim=1) for earlier, later in pairwise(model.states(x))]
    assert stage.length == pytest.approx(sum(steps).mean().item(), rel=1e-9)


def test_a_feature_whose_other_layout_is_overwritten_is_copied() -> None:
    class InPlace(WindowedBlock):
        def forward(self, x: Tensor) -> Tensor:
            shape = x.shape
            x = x + self.mixing(self.first(x))
            flat = x.reshape(shape[0], -1, shape[-1])
            normal = self.second(flat)
            return (flat.reshape(shape).add_(1) + self.perceptron(normal).reshape(shape)).reshape(shape)

    torch.manual_seed(0)
    model = Windowed().double()
    model.blocks[0] = InPlace().double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    flow = FeatureFlow(model, 1.0, inputs=x)
    assert {point.name: point.copied for point in flow.points}["blocks.0"]
    features = []
    model.blocks[0].second.register_forward_pre_hook(lambda module, given: features.append(given[0].clone()))
    model(x)
    ((forward,),) = (flow._recorder.take(),)
    index = [point.name for point in flow.points].index("blocks.0")
    assert torch.equal(forward.features[index], features[0])
