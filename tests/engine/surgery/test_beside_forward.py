"""What is called on the small model beside its forward does to it what it did to the dense one, or the plan names it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

import flowprune.models as models
from flowprune.artifacts import load, save
from flowprune.engine.allocation import Plan
from flowprune.engine.surgery import beside_forward
from flowprune.errors import FlowpruneWarning, ModelError
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def folded(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return kernel * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


class Block(nn.Module):
    """Three branches, one of them the identity, that become one convolution; the widths are read there only."""

    def __init__(self, channels: int, made: int, groups: int = 1) -> None:
        super().__init__()
        self.read, self.made, self.groups = channels, made, groups
        self.wide = nn.Conv2d(channels, made, 3, padding=1, groups=groups, bias=False)
        self.point = nn.Conv2d(channels, made, 1, groups=groups, bias=False)
        self.wide_norm, self.point_norm = nn.BatchNorm2d(made), nn.BatchNorm2d(made)
        self.norm = nn.BatchNorm2d(channels) if channels == made else None
        self.single: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.single is not None:
            return torch.relu(self.single(x))
        branches = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x))
        return torch.relu(branches if self.norm is None else branches + self.norm(x))

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        kernel, bias = folded(self.wide.weight, self.wide_norm)
        point, of_point = folded(self.point.weight, self.point_norm)
        kernel, bias = kernel + nn.functional.pad(point, [1, 1, 1, 1]), bias + of_point
        if self.norm is not None:
            identity = torch.zeros(self.made, self.read // self.groups, 3, 3)
            for channel in range(self.made):
                identity[channel, channel % (self.read // self.groups), 1, 1] = 1.0
            own, of_own = folded(identity, self.norm)
            kernel, bias = kernel + own, bias + of_own
        return kernel, bias

    def single_convolution(self) -> nn.Conv2d:
        kernel, bias = self.kernel_and_bias()
        made = nn.Conv2d(self.read, self.made, 3, padding=1, groups=self.groups)
        made.weight.data.copy_(kernel)
        made.bias.data.copy_(bias)
        return made


class InPlace(Block):
    def switch_to_deploy(self) -> None:
        self.single = self.single_convolution()
        del self.wide, self.point


class Returned(Block):
    def fuse(self) -> nn.Module:
        return nn.Sequential(self.single_convolution(), nn.ReLU())


class Unusual(Block):
    def deploy(self, quietly: bool = True) -> None:
        self.single = self.single_convolution()


class Listed(Block):
    """The widths in a tuple."""

    def __init__(self, channels: int, made: int, groups: int = 1) -> None:
        super().__init__(channels, made, groups)
        self.widths = (channels, made)

    def fuse_branches(self) -> None:
        self.read, self.made = self.widths
        self.single = self.single_convolution()


METHODS = {InPlace: "switch_to_deploy", Returned: "fuse", Unusual: "deploy", Listed: "fuse_branches"}


class Network(nn.Module):
    def __init__(self, kind: type[Block]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.same, self.deep, self.other = kind(16, 16), kind(16, 16, groups=16), kind(16, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(self.deep(self.same(self.stem(x)))).mean((2, 3)))


def network(kind: type[Block]) -> Network:
    torch.manual_seed(0)
    return randomized(Network(kind)).eval()


def fused(model: nn.Module, method: str) -> nn.Module:
    """As a deployment does it: every block, one after the other."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in list(model.named_children()):
            returned = getattr(module, method)() if hasattr(module, method) else None
            if isinstance(returned, nn.Module):
                setattr(model, name, returned)
    return model


def difference(left: nn.Module, right: nn.Module, x: Tensor = X) -> float:
    with torch.no_grad():
        expected = right(x)
        return largest_difference(left(x), expected) / float(expected.abs().max())


@pytest.mark.filterwarnings("error::flowprune.errors.FlowpruneWarning")
@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_small_then_fused_is_fused_then_silenced(kind: type[Block], tmp_path: Path) -> None:
    model, method = network(kind), METHODS[kind]
    state = copy.deepcopy(model.state_dict())
    also = ["deploy"] if method == "deploy" else []
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = plan(model, X, importance=L2(), channels={"other": 0.75, "*": 0.5}, also=also)
    assert torch.equal(before, torch.get_rng_state()) and same_state(state, model.state_dict())
    small = prune(model, made)
    assert difference(fused(model, method), model) < 1e-5, "the dense model fuses"
    assert difference(fused(small, method), small) < 1e-5
    assert difference(fused(small, method), fused(silenced_twin_of_weights(model, made), method)) < 1e-5
    assert (small.same.read, small.deep.groups, small.other.read, small.other.made) == (8, 8, 8, 18)
    if kind is Listed:
        assert small.same.widths == (8, 8) and small.other.widths == (8, 18)
    save(small, tmp_path / "small.fp")
    assert difference(fused(load(tmp_path / "small.fp", model=network(kind)).eval(), method), small) < 1e-5


def silenced_twin_of_weights(model: nn.Module, made: Plan) -> nn.Module:
    """The twin's weights in a plain model (its forward is watched, which copies badly)."""
    silent = copy.deepcopy(model)
    silent.load_state_dict(silenced_twin(model, made).state_dict())
    return silent


def test_a_method_that_returns_the_kernel() -> None:
    """The block of the report: an index that runs over a width nobody else reads."""

    class Kernel(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.c, self.k, self.norm = c, nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)

        def forward(self, x: Tensor) -> Tensor:
            return self.k(x) + self.norm(x)

        def fuse(self) -> Tensor:
            identity = torch.zeros_like(self.k.weight)
            identity[range(self.c), range(self.c), 1, 1] = 1
            return self.k.weight + folded(identity, self.norm)[0]

    torch.manual_seed(0)
    model = randomized(nn.Sequential(nn.Conv2d(3, 16, 3), Kernel(16), nn.Conv2d(16, 4, 3))).eval()
    made = plan(model, X, importance=L2(), channels=0.5)
    small = prune(model, made)
    expected = model[1].fuse()
    for dimension, gone in made.removed["1.k.weight"].items():
        kept = torch.tensor([c for c in range(16) if c not in gone])
        expected = expected.index_select(dimension, kept)
    assert small[1].c == 8 and torch.allclose(small[1].fuse(), expected)


def test_what_no_attribute_says_is_named() -> None:
    class Written(Block):
        def fuse(self) -> None:
            self.read = self.made = 16  # a number of the code
            self.single = self.single_convolution()

    model = randomized(nn.Sequential(nn.Conv2d(3, 16, 3), Written(16, 16), nn.Conv2d(16, 4, 3))).eval()
    with pytest.warns(
        FlowpruneWarning, match=r"1\.fuse\(\) will not do .*: it raises .*1\.made, 1\.read mends"
    ) as said:
        plan(model, X, importance=L2(), channels=0.5)
    assert len(said) == 1 and "\n" not in str(said[0].message)


def test_what_gives_another_result_is_named_even_if_it_raises_nothing() -> None:
    class Half(Block):
        def fuse(self) -> None:
            kernel, bias = folded(self.wide.weight, self.wide_norm)
            self.single = nn.Conv2d(self.wide.in_channels, self.wide.out_channels, 3, padding=1)
            self.single.weight.data, self.single.bias.data = kernel, bias
            if self.wide.out_channels == 16:  # right for the dense model only
                self.single.weight.data, self.single.bias.data = self.kernel_and_bias()

    model = randomized(nn.Sequential(nn.Conv2d(3, 16, 3), Half(16, 16), nn.Conv2d(16, 4, 3))).eval()
    with pytest.warns(FlowpruneWarning, match=r"1\.fuse\(\) .* it changes what the module computes by"):
        plan(model, X, importance=L2(), channels=0.5)


def test_what_does_not_work_on_the_dense_model_either_is_named() -> None:
    class Broken(Block):
        def fuse(self) -> None:
            raise RuntimeError("train first\nsecond line")

    model = nn.Sequential(nn.Conv2d(3, 16, 3), Broken(16, 16), nn.Conv2d(16, 4, 3))
    with pytest.warns(FlowpruneWarning, match=r"1\.fuse\(\) raises RuntimeError: train first on the dense model"):
        made = plan(model, X, importance=L2(), channels=0.5)
    assert not made.is_empty


def test_a_method_nobody_has_is_refused() -> None:
    for also in (["deplyo"], "switch"):
        with pytest.raises(ModelError, match=r"also='(deplyo|switch)': no module of Network has a method"):
            plan(network(Unusual), X, importance=L2(), channels=0.5, also=also)


def test_without_such_methods_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(beside_forward, "cut", tried)
    assert not plan(models.create("resnet8"), X, importance=L2(), channels=0.5).is_empty
    assert not plan(network(Unusual), X, importance=L2(), channels=0.5).is_empty, "its deploy was not asked for"


@pytest.mark.parametrize("name", ["mobileone_s0", "fastvit_t8"])
def test_networks_of_timm_fuse_after_the_cut(name: str) -> None:
    torch.manual_seed(0)
    model = randomized(timm.create_model(name, num_classes=5)).eval()
    x = torch.randn(1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FlowpruneWarning)
        small = prune(model, x, importance=L2(), channels=0.5).eval()
    once = reparameterize_model(small)
    assert difference(once, small, x) < 1e-5
    assert sum(p.numel() for p in once.parameters()) < sum(p.numel() for p in small.parameters())
