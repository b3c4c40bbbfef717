"""Dead ends of residual branches leave, and the network still says what it said."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from branch_networks import Linear, Network, branch_twin, images, kill, network, ready
from silenced_twin import largest_difference, same_state
from torch import nn

import flowprune as fp
from flowprune.engine.allocation import Plan
from flowprune.errors import ArtifactError, BudgetError, ModelError


def kinds(plan: Plan) -> dict[str, str]:
    return {branch.module: branch.kind for branch in plan.branches}


def check_counts(small: nn.Module, plan: Plan, x: torch.Tensor) -> None:
    measured = fp.measure(small, x)
    assert (measured.macs, measured.params) == (plan.macs[1], plan.params[1])


@pytest.mark.parametrize("constant", [0.0, 0.4, -0.4])
def test_live_ends_are_put_at_their_places(constant: float) -> None:
    model = network()
    kill(model.blocks[1].bn2, [0, 2, 3, 7], constant)
    before = copy.deepcopy(model.state_dict())
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches="always")
    assert kinds(plan) == {"blocks.1.bn2": "opened"}
    assert plan.removed["blocks.1.conv2.weight"] == {0: (0, 2, 3, 7)}
    (branch,) = plan.branches
    assert (branch.channels, branch.live) == (8, 4) and branch.inserted == ("aten.expand", "aten.index_copy")
    small = fp.prune(model, plan).eval()
    assert small.blocks[1].conv2.weight.shape == (4, 6, 3, 3)
    assert small.blocks[1].bn2.places.tolist() == [1, 4, 5, 6]
    assert largest_difference(model(x), small(x)) < 1e-12
    check_counts(small, plan, x[:1])
    assert same_state(before, model.state_dict())
    assert "4 of 8 ends live" in str(plan)


def test_without_branches_the_dead_ends_stay() -> None:
    model = network()
    kill(model.blocks[1].bn2, [0, 2, 3, 7], 0.0)
    assert fp.plan(model, images(1), threshold=1e-2).is_empty


def test_a_branch_without_live_ends_vanishes_behind_a_relu() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), 0.0)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches=True)
    assert kinds(plan) == {"blocks.1": "vanished"} and plan.removed == {} and not plan.is_empty
    small = fp.prune(model, plan).eval()
    assert isinstance(small.blocks[1], nn.Identity)
    assert largest_difference(model(x), small(x)) == 0
    check_counts(small, plan, x[:1])
    (gone,) = [layer for layer in plan.layers if layer.layer == "blocks.1.conv1"]
    assert gone.channels == (6, 0) and gone.macs[1] == gone.params[1] == 0


def test_a_branch_without_live_ends_keeps_its_constants() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), torch.linspace(-0.5, 0.9, 8).tolist())
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches=True)
    assert kinds(plan) == {"blocks.1": "constant"} and plan.branches[0].activation == "relu"
    small = fp.prune(model, plan).eval()
    assert largest_difference(model(x), small(x)) < 1e-12
    check_counts(small, plan, x[:1])


def test_constants_below_the_tolerance_are_let_go_with_their_branch() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), 0.01)
    x = images(1)
    assert kinds(fp.plan(model, x, threshold=1e-2, branches=True)) == {"blocks.1": "vanished"}
    assert kinds(fp.plan(model, x, threshold=1e-2, branches=True, fold_tolerance=0)) == {"blocks.1": "constant"}


@pytest.mark.parametrize("kind", ["pad", "conv"])
@pytest.mark.parametrize("constant", [0.0, 0.6])
def test_a_dead_branch_beside_a_shortcut_of_its_own_gives_its_constants(kind: str, constant: float) -> None:
    model = network(kind)
    kill(model.blocks[3].bn2, range(16), constant)
    x = images(size=13)
    plan = fp.plan(model, x[:1], threshold=1e-2, branches=True)
    assert kinds(plan) == {"blocks.3.bn2": "ended"}
    assert plan.branches[0].stand_ins == ("blocks.3.conv1", "blocks.3.bn1", "blocks.3.conv2")
    small = fp.prune(model, plan).eval()
    assert largest_difference(model(x), small(x)) < 1e-12
    check_counts(small, plan, x[:1])
    assert not list(small.blocks[3].conv1.parameters())


def test_dead_shortcuts_are_branches_too() -> None:
    model = network("conv")
    kill(model.blocks[3].shortcut[1], range(12), 0.3)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches="always")
    assert kinds(plan) == {"blocks.3.shortcut.1": "opened"}
    assert largest_difference(model(x), fp.prune(model, plan).eval()(x)) < 1e-12


def test_a_branch_without_activation_behind_it_vanishes_or_leaves_a_sum() -> None:
    model = ready(Network([Linear(8, 12), Linear(8, 12), Linear(8, 12)], 8))
    kill(model.blocks[0].conv[7], range(8), 0.0)
    kill(model.blocks[1].conv[7], range(8), 0.5)
    kill(model.blocks[2].conv[7], range(5), 0.5)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches="always")
    assert kinds(plan) == {"blocks.0": "vanished", "blocks.1": "constant", "blocks.2.conv.7": "opened"}
    small = fp.prune(model, plan).eval()
    assert largest_difference(model(x), small(x)) < 1e-12
    check_counts(small, plan, x[:1])


@pytest.mark.parametrize(
    "budget", [{"macs": 0.2}, {"params": 0.2}, {"channels": 0.6}, {"macs": 0.4, "scope": "local"}, {"params": "1500"}]
)
@pytest.mark.parametrize("kind", ["pad", "conv"])
def test_streams_and_branches_are_cut_at_once(budget: dict[str, object], kind: str) -> None:
    """The stream loses channels, so the places of the live ends are numbered anew."""
    model = network(kind)
    dead = {
        "blocks.0.bn2": [0, 1, 5],
        "blocks.1.bn2": list(range(8)),
        "blocks.3.bn2": list(range(16)),
        "blocks.4.bn2": [3, 9],
    }
    for number, (name, channels) in enumerate(dead.items()):
        kill(model.get_submodule(name), channels, 0.1 + 0.2 * number)
    x = images()
    plan = fp.plan(model, x[:1], importance=fp.importance.L2(), branches="always", **budget)
    assert {"opened", "constant", "ended"} <= set(kinds(plan).values())
    assert plan.removed["stem.0.weight"][0]
    small = fp.prune(model, plan).eval()
    assert largest_difference(branch_twin(model, plan, dead)(x), small(x)) < 1e-10
    assert largest_difference(model(x), small(x)) > 1e-6
    check_counts(small, plan, x[:1])
    kind_of_budget, asked = next(iter(budget.items()))
    if kind_of_budget in ("macs", "params"):
        before, after = getattr(plan, kind_of_budget)
        assert plan.target == (int(asked) if isinstance(asked, str) else int(asked * before)) and after <= plan.target


def test_what_is_dead_leaves_before_anything_else() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), 0.3)
    x = images(1)
    alone = fp.plan(model, x, threshold=1e-2, branches=True)
    share = alone.macs[1] / alone.macs[0]
    plan = fp.plan(model, x, macs=share, importance=fp.importance.L2(), branches=True)
    assert plan.removed == {} and plan.macs == alone.macs
    rounded = fp.plan(model, x, macs=0.6, importance=fp.importance.L2(), branches=True, round_to=4)
    assert {layer.channels[1] % 4 for layer in rounded.layers if layer.channels[0] != layer.channels[1]} == {0}


@pytest.mark.parametrize("budget", [{"threshold": 1e-2}, {"params": 0.35}, {"channels": 0.7}])
def test_branches_read_only_what_may_not_be_zero(budget: dict[str, float]) -> None:
    """Nothing has been put into the padded channels yet, but for two; and one column has no weights."""
    model = network("pad")
    dead = {"blocks.3.bn2": list(range(14)), "blocks.1.bn2": [2, 3]}
    kill(model.blocks[3].bn2, dead["blocks.3.bn2"], -0.2)
    kill(model.blocks[1].bn2, dead["blocks.1.bn2"], 0.2)
    with torch.no_grad():
        model.blocks[2].conv1.weight[:, 5] = 0.0
    x = images()
    plan = fp.plan(model, x[:1], importance=fp.importance.L2(), branches="always", **budget)
    assert {branch.module for branch in plan.branches if branch.kind == "reading"} == {
        "blocks.2.conv1",
        "blocks.4.conv1",
    }
    small = fp.prune(model, plan).eval()
    if "threshold" in budget:
        assert small.blocks[4].conv1.reads.tolist() == [*range(8), 14, 15]
        assert "reads 10 of the 16 channels" in str(plan)
        assert largest_difference(model(x), small(x)) < 1e-12
    else:
        assert plan.removed["stem.0.weight"][0]
    assert largest_difference(branch_twin(model, plan, dead)(x), small(x)) < 1e-10
    check_counts(small, plan, x[:1])
    assert Plan.from_dict(plan.as_dict()) == plan


def test_saved_loaded_and_rebuilt_from_the_plan_alone(tmp_path: Path) -> None:
    model = network("pad")
    kill(model.blocks[0].bn2, [1, 2, 6], 0.3)
    kill(model.blocks[2].bn2, range(8), 0.3)
    kill(model.blocks[3].bn2, range(16), 0.2)
    x = images()
    plan = fp.plan(model, x[:1], macs=0.5, importance=fp.importance.L2(), branches="always")
    small = fp.prune(model, plan).eval()
    again = Plan.from_dict(plan.as_dict())
    assert again == plan
    fp.save(small, tmp_path / "small.fp")
    loaded = fp.load(tmp_path / "small.fp", model=network("pad")).eval()
    assert same_state(small.state_dict(), loaded.state_dict())
    assert largest_difference(small(x), loaded(x)) == 0
    with pytest.raises(ArtifactError, match="blocks"):
        fp.load(tmp_path / "small.fp", model=network())
    with pytest.raises(ModelError, match="already carried out"):
        fp.prune(small, plan)


def test_the_optimizer_comes_along_and_training_goes_on() -> None:
    model = network("conv")
    kill(model.blocks[0].bn2, [1, 2, 6], 0.3)
    kill(model.blocks[1].bn2, range(8), 0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()(images()).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.blocks[0].bn2.weight[[1, 2, 6]] = 0.0
        model.blocks[1].bn2.weight.zero_()
    small, carried = fp.prune(model, images(1), optimizer=optimizer, threshold=1e-2, branches="always")
    held = {id(parameter) for group in carried.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in small.parameters()}
    momentum = carried.state[small.blocks[0].conv2.weight]["momentum_buffer"]
    kept = [0, 3, 4, 5, 7]
    assert torch.equal(momentum, optimizer.state[model.blocks[0].conv2.weight]["momentum_buffer"][kept])
    before = small.blocks[0].conv2.weight.detach().clone()
    carried.zero_grad()
    small.train()(images()).square().sum().backward()
    carried.step()
    assert small.blocks[0].conv2.weight.grad.abs().sum() > 0
    assert not torch.equal(before, small.blocks[0].conv2.weight)


def test_it_is_exported_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra flowprune[onnx] is not installed")
    model = network("conv").float()
    kill(model.blocks[0].bn2, [1, 2, 6], 0.3)
    kill(model.blocks[1].bn2, range(8), 0.3)
    kill(model.blocks[3].bn2, range(16), 0.2)
    with torch.no_grad():
        model.blocks[2].conv1.weight[:, [0, 5]] = 0.0
    small = fp.prune(model, images(2).float(), threshold=1e-2, branches="always")
    assert len(small.blocks[2].conv1.reads) == 6
    assert fp.export(small, images(2).float(), tmp_path / "small.onnx").largest_difference < 1e-4


def test_branches_that_are_not_worth_it_stay_and_are_named() -> None:
    model = network()
    kill(model.blocks[1].bn2, [3], 0.0)
    plan = fp.plan(model, images(1), threshold=1e-2, branches=True)
    assert plan.is_empty and "costs more than it saves" in plan.branches_left["blocks.1.bn2"]
    assert "blocks.1.bn2 keeps its dead ends" in str(plan)


def test_what_shall_stay_stays() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), 0.3)
    for options in (
        {"ignore": "blocks.1"},
        {"ignore": model.blocks[1].bn2},
        {"freeze": {"blocks.1.conv2.weight": [0]}},
    ):
        plan = fp.plan(model, images(1), threshold=1e-2, branches=True, **options)
        assert plan.is_empty and "as asked" in plan.branches_left["blocks.1.bn2"]


class OwnNorm(nn.BatchNorm2d):
    """A user's class, as timm has one."""


class ReadTwice(nn.Module):
    """The end is read by more than the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        end = self.bn(self.conv(x))
        return torch.relu(x + end) + end.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("dead", [5, 8])
def test_an_end_may_be_read_elsewhere_too(dead: int) -> None:
    model = ready(Network([ReadTwice()], 8))
    kill(model.blocks[0].bn, range(dead), 0.3)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches="always")
    assert kinds(plan) == {"blocks.0.bn": "opened" if dead < 8 else "ended"}
    assert largest_difference(model(x), fp.prune(model, plan).eval()(x)) < 1e-12


def test_norms_of_a_class_of_ones_own_are_opened_and_pickled() -> None:
    model = network()
    own = OwnNorm(8).double().eval()
    own.load_state_dict(model.blocks[0].bn2.state_dict())
    model.blocks[0].bn2 = own
    kill(own, range(5), 0.3)
    x = images()
    small = fp.prune(model, x[:1], threshold=1e-2, branches="always").eval()
    assert isinstance(small.blocks[0].bn2, OwnNorm) and small.blocks[0].bn2.num_features == 3
    assert largest_difference(model(x), small(x)) < 1e-12
    for norm in (small.blocks[0].bn2, small.blocks[1].bn2):
        again = pickle.loads(pickle.dumps(norm))  # as torch.save of a whole model, and a new process, would
        assert type(again) is type(norm) and same_state(again.state_dict(), norm.state_dict())
        assert type(copy.deepcopy(norm)) is type(norm)


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x + self.bn(self.conv(x)))
        return torch.relu(x + self.bn(self.conv(x)))


class Functional(nn.Module):
    """The norm is no module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.bn
        y = nn.functional.batch_norm(self.conv(x), n.running_mean, n.running_var, n.weight, n.bias, self.training)
        return torch.relu(x + y)


class ReadsItsWeight(nn.Module):
    """The code looks at what a stand-in would not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)
        self.short = nn.Conv2d(8, 16, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(torch.relu(self.bn1(self.conv1(x))) * self.conv1.weight.mean())
        return torch.relu(self.bn2(y) + self.short(x))


class Unequal(nn.Module):
    """A convolution that leaves out the border, so that no stand-in is known for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x[:, :, 2:-2, 2:-2] + self.bn(self.conv2(torch.relu(self.conv1(x)))))


class Depthwise(nn.Module):
    """The ends are the stream's own channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn(self.conv(x)))


class Grouped(nn.Module):
    """The groups of the last convolution must stay equally wide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=2), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn(self.conv2(torch.relu(self.conv1(x)))))


@pytest.mark.parametrize("block", [Depthwise, Grouped])
@pytest.mark.parametrize("dead", [[1, 4, 5], [0, 1, 2, 3]])
def test_ends_that_are_not_free_are_left_or_handled_right(block: type[nn.Module], dead: list[int]) -> None:
    model = ready(Network([block()], 8))
    kill(model.blocks[0].bn, dead, 0.3)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches="always")
    assert "blocks.0.bn" in plan.branches_left
    assert largest_difference(model(x), fp.prune(model, plan).eval()(x)) < 1e-12
    kill(model.blocks[0].bn, range(8), 0.3)
    plan = fp.plan(model, x[:1], threshold=1e-2, branches=True)
    assert kinds(plan) == {"blocks.0": "constant"}
    assert largest_difference(model(x), fp.prune(model, plan).eval()(x)) < 1e-12


@pytest.mark.parametrize(
    ("block", "norm"),
    [(CalledTwice, "bn"), (Functional, "bn"), (ReadsItsWeight, "bn2"), (Unequal, "bn")],
)
def test_odd_code_is_left_as_it_is_or_handled_right(block: type[nn.Module], norm: str) -> None:
    model = ready(Network([block()], 16 if block is ReadsItsWeight else 8))
    end = getattr(model.blocks[0], norm)
    kill(end, range(end.num_features), 0.3)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches=True)
    assert all(branch.kind == "opened" for branch in plan.branches)
    assert plan.branches or "blocks.0" in str(plan.branches_left)
    assert largest_difference(model(x), fp.prune(model, plan).eval()(x)) < 1e-12


def test_a_branch_with_a_single_live_end_keeps_two() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(7), 0.3)
    x = images()
    plan = fp.plan(model, x[:1], threshold=1e-2, branches="always")
    assert plan.branches[0].live == 2
    assert largest_difference(model(x), fp.prune(model, plan).eval()(x)) < 1e-12


def test_options_that_do_not_go_together() -> None:
    model = network()
    with pytest.raises(BudgetError, match="branches='sometimes'"):
        fp.plan(model, images(1), threshold=1e-2, branches="sometimes")
    with pytest.raises(BudgetError, match="heads"):
        fp.plan(model, images(1), macs=0.5, importance=fp.importance.L2(), branches=True, heads="both")
