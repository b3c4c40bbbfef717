"""TPP and GReg-1 against the authors' code, and a network they prepared for its cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixtures import double, fixture
from torch import nn

from flowprune import plan, prune
from flowprune.engine.interfaces import Training
from flowprune.errors import ArtifactError, ModelError, RecipeError
from flowprune.methods.importance.weight_norms import L2
from flowprune.methods.regularizers import REGISTRY
from flowprune.methods.regularizers.strength.growing import Growth
from flowprune.methods.regularizers.tpp import TPP, decorrelation_loss, pruned


class TwoConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def close(ours: torch.Tensor, theirs: Any, tolerance: float) -> None:
    torch.testing.assert_close(ours.double(), double(theirs), atol=tolerance, rtol=0)


def test_the_decorrelation_and_its_gradient_are_the_authors() -> None:
    given = fixture("tpp-decorrelation")
    weight = double(given["inputs"]["W"]).requires_grad_()
    chosen = torch.zeros(len(weight), dtype=torch.bool)
    chosen[given["inputs"]["pruned"]] = True
    loss = decorrelation_loss(weight.flatten(1), chosen)
    loss.backward()  # type: ignore[no-untyped-call]
    close(loss.detach(), given["outputs"]["v5"]["loss"], 1e-12)
    assert weight.grad is not None
    close(weight.grad, given["outputs"]["v5"]["grad"], 1e-12)


def at_step(step: int, given: dict[str, Any], name: str = "tpp") -> tuple[nn.Module, TPP]:
    """The fixture's network and method, as they are when so many steps were made."""
    model = TwoConvolutions().double()
    state = {name: double(values) for name, values in given["inputs"]["state"].items()}
    model.load_state_dict(state, strict=False)
    asked = given["inputs"]
    ratio = {name: share for name, share in asked["pr"].items() if share}
    options = {"delta": asked["delta"], "every": asked["tau"], "limit": asked["limit"]}
    if name == "tpp":
        options["decorrelation"] = asked["lw"]
    x = double(asked["x"])
    method: Any = REGISTRY[name](model, inputs=x, ratio=ratio, zero_every=asked["zero_out_interval"], **options)
    method.load_state_dict({"step": step, "chosen": {}})
    method.begin(Training(torch.optim.SGD(model.parameters(), lr=0.1), 1, 60))
    return model, method


def test_choice_schedule_and_gradients_are_the_authors() -> None:
    given = fixture("tpp-schedule-and-step")
    asked, expected = given["inputs"], given["outputs"]
    growth = Growth(asked["delta"], asked["tau"], asked["limit"])
    assert growth.steps == expected["t_stabilize"]
    assert [growth.at(row["t"]) for row in expected["schedule"]] == pytest.approx(
        [row["reg"] for row in expected["schedule"]], abs=1e-12
    )
    model, method = at_step(asked["t_of_gradient"], given)
    assert method.chosen == {name: chosen for name, chosen in expected["pruned_in_order"].items() if chosen}
    step = expected["step"]
    close(method.penalty().detach(), step["lw_opp"] * step["loss_opp_sum"], 1e-10)
    for name, parameter in model.named_parameters():
        parameter.grad = double(step["grad_before_growing_L2"][name])
    method.after_backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, step["grad_after"][name], 1e-10)
    counts = [pruned(row["n"], row["pr"]) for row in asked["pick_counts"]]
    assert counts == expected["pick_counts"]


def test_greg_pulls_weights_and_biases_as_the_authors_do_and_no_norms() -> None:
    given = fixture("tpp-schedule-and-step")
    step = given["outputs"]["step"]
    model, method = at_step(given["inputs"]["t_of_gradient"], given, "greg")
    assert float(method.penalty()) == 0
    for name, parameter in model.named_parameters():
        parameter.grad = double(step["grad_before_growing_L2"][name])
    method.after_backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, step["grad_before_growing_L2" if name.startswith("bn") else "grad_after"][name], 1e-10)


def test_layers_are_zeroed_when_the_authors_do_and_their_bias_too() -> None:
    given = fixture("tpp-schedule-and-step")
    for row in given["outputs"]["zeroing"]:
        model, method = at_step(given["outputs"]["t_stabilize"] + row["dt"], given)
        method.after_step(torch.optim.SGD(model.parameters(), lr=0.1), lambda: torch.zeros(()))
        tensors = dict(model.named_parameters())

        def zero(name: str, tensors: dict[str, nn.Parameter] = tensors) -> list[int]:
            rows = tensors[name].detach().reshape(len(tensors[name]), -1)
            found: list[int] = torch.nonzero(~rows.any(1)).flatten().tolist()
            return found

        assert {layer: zero(f"{layer}.weight") for layer in ("conv1", "conv2")} == row["zero_filters"]
        for norm in ("bn1", "bn2"):
            assert zero(f"{norm}.weight") == zero(f"{norm}.bias") == row[f"{norm}_zero"]
        # The authors leave the bias (conv1_bias_zero is always empty): without a batch norm such a channel would go on speaking.
        assert row["conv1_bias_zero"] == [] and zero("conv1.bias") == row["zero_filters"]["conv1"]


class Block(nn.Module):
    """A stream, a block with a depthwise convolution without a norm, and a classifier with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.hidden, self.head = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (x + self.conv2(self.depthwise(self.bn1(self.conv1(x)).relu()).relu())).relu()
        out: torch.Tensor = self.head(self.hidden(x.mean((2, 3))).relu())
        return out


X = torch.zeros(1, 3, 6, 6)


@pytest.mark.parametrize("name", ["tpp", "greg"])
def test_what_was_chosen_is_zero_in_the_end_and_its_cut_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = Block()
    method: Any = REGISTRY[name](model, inputs=X, ratio=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.9, weight_decay=1e-4)
    method.begin(Training(optimizer, 1, 60))
    assert set(method.chosen) == {"conv1", "hidden"}  # not the stream
    x, y = torch.randn(12, 3, 6, 6), torch.arange(12) % 3
    penalties = []
    for _ in range(60):
        task_loss = nn.functional.cross_entropy(model(x), y)
        penalties.append(method.penalty(task_loss.detach()))
        optimizer.zero_grad()
        (task_loss + penalties[-1]).backward()
        method.after_backward()
        optimizer.step()
        method.after_step(optimizer, lambda: torch.zeros(()))
    assert (float(penalties[30]) > 0) == (name == "tpp")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    leaves = method.finish().leaves
    assert all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )  # zero already, by the schedule
    assert {key: len(filters) for key, filters in leaves.items()} == {
        "conv1.weight": 4,
        "depthwise.weight": 4,
        "hidden.weight": 5,
    }
    assert all(not dict(model.named_parameters())[key][filters].any() for key, filters in leaves.items())
    model.eval()
    shares = {
        key.removesuffix(".weight"): 1 - len(leaves[key]) / len(dict(model.named_parameters())[key])
        for key in ("conv1.weight", "hidden.weight")
    }
    made = plan(model, X, importance=L2(), channels=shares)
    for key, filters in leaves.items():
        assert set(made.removed[key][0]) == set(filters.tolist())
    expected, found = model(x).detach(), prune(model, made)(x).detach()
    assert float((expected - found).abs().max()) < 1e-5 * float(expected.abs().max())


def test_a_state_that_was_saved_goes_on_and_another_is_refused() -> None:
    torch.manual_seed(0)
    model = Block()
    method = TPP(model, inputs=X)
    method.begin(Training(torch.optim.SGD(model.parameters(), lr=0.1), 1, 60))
    again = TPP(model, inputs=X)
    with torch.no_grad():
        model.conv1.weight.mul_(torch.rand(8, 1, 1, 1))  # other filters would be the weakest now
    again.load_state_dict(method.state_dict())
    again.begin(Training(torch.optim.SGD(model.parameters(), lr=0.1), 1, 60))
    assert again.chosen == method.chosen
    with pytest.raises(ArtifactError, match="other ratios"):
        TPP(model, inputs=X, ratio=0.2).load_state_dict(method.state_dict())
    with pytest.raises(ArtifactError, match="no state of tpp"):
        again.load_state_dict({"step": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.2}, "no share"),
        ({"ratio": 0}, "would remove no filter"),
        ({"ratio": {"head": 0.5}}, "cannot act on 'head': .+"),
        ({"ratio": {"nothing": 0.5}}, "no layer of that name"),
        ({"delta": -1}, "delta above 0"),
        ({"inputs": None}, "inputs="),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TPP(Block(), **{"inputs": X, **options})


def test_a_training_that_is_too_short_or_was_not_announced_is_refused() -> None:
    method = TPP(Block(), inputs=X, delta=1e-4, zero_every=100)
    with pytest.raises(RecipeError, match="needs 100201 steps"):
        method.begin(Training(torch.optim.SGD([nn.Parameter(X)]), 2, 30))
    with pytest.raises(ModelError, match="begin"):
        method.penalty()
