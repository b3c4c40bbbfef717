"""What the user asks to leave alone is left alone: shapes, values and attributes; unknown names are one line."""

from __future__ import annotations

import re

import pytest
import torch
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from torch import nn

import flowprune.models as models
from flowprune.errors import FlowpruneError, ModelError
from flowprune.explanation import explain
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_frozen_dimension_stays_and_the_other_may_go() -> None:
    model = models.create("vgg6", in_channels=3)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    middle = f"{convolutions[1]}.weight"
    free = plan(model, IMAGES, importance=L2(), channels=0.5)
    assert set(free.removed[middle]) == {0, 1}
    kept = plan(model, IMAGES, importance=L2(), channels=0.5, freeze={middle: [0]})
    assert set(kept.removed[middle]) == {1} and kept.frozen[middle] == "frozen, as asked"
    readers = plan(model, IMAGES, importance=L2(), channels=0.5, freeze={middle: 1})
    assert set(readers.removed[middle]) == {0} and f"{convolutions[0]}.weight" not in readers.removed
    assert readers.frozen[f"{convolutions[0]}.weight"] == "frozen, as asked"
    counted_from_the_end = plan(model, IMAGES, importance=L2(), channels=0.5, freeze={middle: [-3]})
    assert counted_from_the_end.removed == readers.removed


@pytest.mark.parametrize(
    "entry", ["layer2.0.conv1.weight", "layer2.0.conv1", "layer2.*.conv1.weight", "layer2.?.conv1"]
)
def test_names_patterns_and_modules_freeze_alike(entry: str) -> None:
    model = models.create("resnet20")
    for key in (entry, model.layer2[0].conv1):
        made = plan(model, IMAGES, importance=L2(), channels=0.5, freeze={key: [0]})
        assert 0 not in made.removed["layer2.0.conv1.weight"]
        assert 0 in made.removed["layer3.0.conv1.weight"]
        several = "*" in entry or "?" in entry
        assert (0 in made.removed.get("layer2.1.conv1.weight", {})) == (key is not entry or not several)
    assert "frozen, as asked" in str(explain(model, IMAGES, freeze={entry: [0]}))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"freeze": {"layer1.0.conv1.wieght": [0]}}, "did you mean 'layer1.0.conv1.weight'?"),
        (
            {"freeze": {"layer1.0.conv1.weight": [4]}},
            "layer1.0.conv1.weight has 4 dimensions, so there is no dimension 4",
        ),
        ({"freeze": {"layer1.0.conv1.weight": "all"}}, "give the dimensions that stay, like [0]"),
        ({"freeze": {"layer1.0.conv1.weight": []}}, "give the dimensions that stay, like [0]"),
        ({"freeze": ["layer1.0.conv1.weight"]}, "is not a mapping"),
        ({"freeze": {nn.Linear(2, 2): [0]}}, "freeze=this Linear matches no parameter"),
        ({"ignore": ["layer9"]}, "ignore='layer9' matches no parameter of CifarResNet"),
        ({"ignore": "layer1.0.conf1"}, "did you mean 'layer1.0.conv1'?"),
        ({"ignore": [""]}, "matches no parameter"),
    ],
)
def test_what_does_not_exist_is_one_clear_line(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ModelError, match=re.escape(complaint)) as caught:
        plan(models.create("resnet20"), IMAGES, importance=L2(), channels=0.5, **options)  # type: ignore[arg-type]
    assert isinstance(caught.value, FlowpruneError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ignore", ["layer2", ["layer2"], ["layer2.*"]])
def test_an_ignored_stage_keeps_every_number(ignore: object) -> None:
    model = randomized(models.create("resnet20"), dead=0.3)
    for asked in ({"channels": 0.5, "importance": L2()}, {"threshold": 0.01}):
        made = plan(model, IMAGES, ignore=ignore, **asked)  # type: ignore[arg-type]
        small = prune(model, made)
        assert not made.is_empty
        assert same_state(model.layer2.state_dict(), small.layer2.state_dict())
        for change in made.attributes:
            assert not change.module.startswith("layer2")


def test_a_single_module_may_be_ignored_even_if_it_is_a_sequence() -> None:
    model = models.create("resnet20")
    by_name, by_module = (
        plan(model, IMAGES, importance=L2(), channels=0.5, ignore=i) for i in ("layer2", model.layer2)
    )
    assert by_name == by_module


class Counting(nn.Module):
    """Keeps the number of channels it reshapes as an integer of its own, beside no parameter of that size."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.scale = 12, nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, self.width, 64) * self.scale


class WithCounting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.counting, self.second = nn.Conv2d(3, 12, 1), Counting(), nn.Conv1d(12, 10, 1)
        self.last = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.second(self.counting(torch.relu(self.first(x))))).mean(2))


def test_an_ignored_module_keeps_its_integers() -> None:
    x = torch.randn(2, 3, 8, 8)
    free = prune(WithCounting(), x, importance=L2(), channels=0.5)
    assert free.counting.width == 6
    made = plan(WithCounting(), x, importance=L2(), channels=0.5, ignore=["counting"])
    assert prune(WithCounting(), made).counting.width == 12
    assert "counting.width counts them, and counting is ignored" in made.frozen["first.weight"]
    assert made.removed["second.weight"] == {0: made.removed["second.bias"][0]}


def test_no_constant_is_folded_into_what_is_ignored() -> None:
    """The running mean of a norm behind the consumer would take the constant; where that norm is ignored, the dead filters stay."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    randomized(model).eval()
    with torch.no_grad():
        model[1].weight[:3] = 0.0
        model[1].bias[:3] = 0.5
    folded = plan(model, IMAGES, threshold=0.01)
    assert [fold.target for fold in folded.folds] == ["3.running_mean"] and folded.removed["0.weight"][0] == (0, 1, 2)
    made = plan(model, IMAGES, threshold=0.01, ignore=["3"])
    small = prune(model, made)
    assert not made.folds and same_state(model[3].state_dict(), small[3].state_dict())
    assert largest_difference(small.eval()(IMAGES), silenced_twin(model, made).eval()(IMAGES)) < 1e-5
    assert largest_difference(small(IMAGES), model(IMAGES)) < 1e-5, "only what is dead and folded exactly may leave"


def test_a_module_without_parameters_may_be_ignored_for_its_integers() -> None:
    """The shortcut that pads channels keeps how many it pads; those it only passes on may go."""
    made = plan(models.create("resnet20"), IMAGES, importance=L2(), channels=0.5, ignore=["layer2.0.shortcut"])
    assert not any(change.module == "layer2.0.shortcut" for change in made.attributes)
    gone = made.removed["layer2.0.conv2.weight"][0]
    assert gone and set(gone) <= set(range(8, 24)), "8 of its 32 channels are padded on either side"
