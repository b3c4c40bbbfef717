"""Scripted and traced parts (torch.jit) inside a model: opaque, frozen, named, and whole in what comes out."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn

from flowprune.artifacts import load, save
from flowprune.engine.measuring import measure
from flowprune.errors import ModelError
from flowprune.explanation import explain
from flowprune.methods.importance import L2, NuclearNorm, TaylorActivation, TaylorWeight
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.pruning import plan, prune

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAMED = "passes through part, which is scripted or traced"


class Shift(nn.Module):
    """No weights, two arguments, and a method of its own."""

    def forward(self, x: Tensor, by: float = 1.0) -> Tensor:
        return torch.relu(x) + by

    @torch.jit.export
    def doubled(self, x: Tensor) -> Tensor:
        return 2 * x


def layers() -> nn.Module:
    torch.manual_seed(1)
    return randomized(nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()))


PARTS: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: torch.jit.script(layers()),
    "traced": lambda: torch.jit.trace(layers().eval(), torch.randn(2, 12, 8, 8)),
    "scripted without weights": lambda: torch.jit.script(Shift()),
    "traced without weights": lambda: torch.jit.trace(Shift(), torch.randn(2, 12, 8, 8)),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(layers().eval())),
}


class Network(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.part = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), part
        self.second, self.third = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(16, 10, 3, padding=1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.part(torch.relu(self.norm(self.first(x))))
        return self.head(torch.relu(self.third(torch.relu(self.second(x)))).mean((2, 3)))


def network(part: nn.Module) -> Network:
    torch.manual_seed(0)
    model = randomized(Network(nn.Identity()))
    model.part = part
    return model.eval()


@pytest.mark.parametrize("kind", PARTS)
def test_what_a_scripted_part_touches_stays_and_the_rest_is_pruned(kind: str, tmp_path: Path) -> None:
    model = network(PARTS[kind]())
    state, expected = copy.deepcopy(model.state_dict()), model(X)
    made = plan(model, X, importance=L2(), channels=0.5)
    assert NAMED in made.frozen["first.weight"]
    assert {name: sorted(slices) for name, slices in made.removed.items() if name.endswith("weight")} == {
        "second.weight": [0],
        "third.weight": [0, 1],
        "head.weight": [1],
    }
    small = prune(model, made)
    assert isinstance(small.part, torch.jit.ScriptModule)
    assert largest_difference(small(X), silenced_twin(model, made)(X)) < 1e-5
    assert torch.equal(model(X), expected), "the model is what it was"
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())

    save(small, tmp_path / "small.fp")
    again = load(tmp_path / "small.fp", model=network(PARTS[kind]())).eval()
    assert torch.equal(again(X), small(X))
    small.train()(X).square().mean().backward()
    assert all(p.grad is not None and p.is_leaf for p in small.parameters())


def test_the_small_model_s_part_has_tensors_of_its_own() -> None:
    model = network(PARTS["scripted"]())
    small = prune(model, X, importance=L2(), channels=0.5)
    with torch.no_grad():
        for parameter in small.part.parameters():
            parameter.zero_()
    assert all(float(p.detach().abs().max()) > 0 for p in model.part.parameters())


@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_its_cost_is_counted(kind: str) -> None:
    model, eager = network(PARTS[kind]()), network(layers())
    assert measure(model, X).macs == measure(eager, X).macs and measure(model, X).params == measure(eager, X).params
    made = plan(model, X, importance=L2(), macs=0.6)
    assert made.macs[0] == measure(model, X).macs and made.macs[1] == measure(prune(model, made), X).macs


@pytest.mark.parametrize(
    "importance",
    [
        lambda: NuclearNorm([X]),
        lambda: TaylorActivation([(X, torch.tensor([0, 1]))]),
        lambda: TaylorWeight([(X, torch.tensor([0, 1]))]),
    ],
    ids=["maps", "gradients of maps", "gradients of weights"],
)
def test_criteria_that_run_the_model_find_the_maps_around_it(importance: Callable[[], Any]) -> None:
    """As in the eager model, whose own convolution in the part comes between the others."""
    model, eager = network(PARTS["scripted"]()), network(layers())
    made = plan(model, X, importance=importance(), channels=0.5)
    expected = plan(eager, X, importance=importance(), channels=0.5, ignore=["part"])
    for name in ("second.weight", "third.weight"):
        assert made.removed[name][0] == expected.removed[name][0]


def test_dead_filters_around_it_leave() -> None:
    model = network(PARTS["scripted"]())
    model = randomized(
        nn.Sequential(model.first, model.part, nn.Conv2d(12, 9, 3), nn.BatchNorm2d(9), nn.Conv2d(9, 2, 3))
    )
    with torch.no_grad():
        model[3].weight[:4], model[3].bias[:4] = 0.0, 0.0
    made = plan(model.eval(), X, threshold=0.01)
    assert made.removed["2.weight"][0] == (0, 1, 2, 3)
    assert largest_difference(prune(model, made)(X), model(X)) < 1e-5


def test_its_methods_and_modules_called_one_by_one_are_opaque_too() -> None:
    class Picks(Network):
        def forward(self, x: Tensor) -> Tensor:
            x = self.part.shift.doubled(torch.relu(self.first(x)))
            x = self.part.rectify(self.part.shift(x, by=0.5))
            return self.head(torch.relu(self.third(torch.relu(self.second(x)))).mean((2, 3)))

    model = Picks(torch.jit.script(nn.Sequential(OrderedDict(shift=Shift(), rectify=nn.ReLU()))))
    made = plan(model, X, importance=L2(), channels=0.5)
    assert "part.shift, which is scripted" in made.frozen["first.weight"] and 0 in made.removed["second.weight"]
    assert largest_difference(prune(model, made)(X), silenced_twin(model, made)(X)) < 1e-5


@torch.jit.script
def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def test_a_scripted_function_may_be_an_attribute() -> None:
    """What it does is seen; only copying it was refused."""
    model = network(nn.Identity())
    model.part = nn.Identity()
    model.activations = [swish]
    model.part.forward = swish
    made = plan(model, X, importance=L2(), channels=0.5)
    assert 0 in made.removed["first.weight"]
    assert largest_difference(prune(model, made)(X), silenced_twin_of_global(model, made)) < 1e-5


def silenced_twin_of_global(model: Network, made: Any) -> Tensor:
    """The twin is a deep copy, which scripted functions refuse; the name of a global one does as well."""
    plain = network(nn.Identity())
    plain.part.forward = lambda x: x * torch.sigmoid(x)
    plain.load_state_dict(model.state_dict())
    return silenced_twin(plain, made)(X)


@pytest.mark.parametrize("whole", [torch.jit.script, lambda model: torch.jit.trace(model, X)], ids=["script", "trace"])
def test_a_model_scripted_as_a_whole_is_refused_in_one_line(whole: Callable[[nn.Module], nn.Module]) -> None:
    model = whole(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)))
    for attempt in (
        lambda: plan(model, X, importance=L2(), channels=0.5),
        lambda: prune(model, X, importance=L2(), channels=0.5),
        lambda: explain(model, X),
        lambda: measure(model, X),
    ):
        with pytest.raises(ModelError, match=r"scripted or traced as a whole .* pass the eager model") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_the_flow_runs_past_it() -> None:
    def block(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU())

    model = nn.Sequential(block(3), block(12), PARTS["scripted"](), block(12), block(12))
    flow = FeatureFlow(model, gradient=0.1, inputs=X)
    model(X)
    assert float(flow.penalty().detach()) > 0
