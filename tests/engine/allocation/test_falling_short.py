"""A plan that takes nothing, or far less than was asked for, is a warning at the user's line: once, with reasons and advice."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowprune as fp
from flowprune.errors import UnreachableBudgetError

L2 = fp.importance.L2()
IMAGES = torch.randn(2, 3, 8, 8)


class Chain(nn.Module):
    """Convolutions of 16 channels; ``between`` comes after every one of them but the last."""

    def __init__(self, between: Callable[[Tensor], Tensor], layers: int = 3) -> None:
        super().__init__()
        self.between = between
        widths = [3, *[16] * layers, 4]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.between(layer(x))
        return self.layers[-1](x)


def stuck() -> Chain:
    """Nothing of it can be pruned: three layers for one reason, and the output."""
    return Chain(lambda x: x.cumsum(3)).eval()


def warned(make: Callable[[], Any]) -> list[str]:
    """The package's warnings, each at a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    own = [warning for warning in caught if issubclass(warning.category, fp.FlowpruneWarning)]
    assert all(warning.filename == __file__ for warning in own), [warning.filename for warning in own]
    return [str(warning.message) for warning in own]


def test_an_empty_plan_says_why_and_what_to_do() -> None:
    assert warned(lambda: fp.plan(stuck(), IMAGES, importance=L2, channels=0.5)) == [
        "channels=0.5 removes nothing; what stays: layers.0.weight and 2 more: passes through aten.cumsum, which has no coupling "
        "rule (in the model itself); give the operator a rule (flowprune.coupling.rule); plan.frozen names every weight that stays"
    ]


def test_the_three_most_frequent_reasons_and_no_output_among_them() -> None:
    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(Chain(between, layers) for between, layers in self.KINDS)

        KINDS = (
            (lambda x: x.cumsum(3), 1),
            (lambda x: x.softmax(1), 4),
            (lambda x: x[:, :15].repeat(1, 2, 1, 1)[:, :16], 2),
            (lambda x: x.flip(1), 3),
        )

        def forward(self, x: Tensor) -> Tensor:
            return sum(part(x) for part in self.parts)  # type: ignore[return-value]

    (said,) = warned(lambda: fp.plan(Four(), IMAGES, importance=L2, channels=0.5))
    places = [said.index(reason) for reason in ("parts.1.layers.0.weight and 3 more: a softmax", "parts.3", "parts.2")]
    assert places == sorted(places) and "cumsum" not in said and "output of the model" not in said
    assert "read the number off a tensor's shape" in said


def test_what_keeps_more_than_twice_as_much_as_asked() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.stuck = Chain(torch.relu), stuck()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.free(x), self.stuck(x)

    (said,) = warned(lambda: fp.plan(Half(), IMAGES, importance=L2, channels=0.25))
    assert said.startswith(
        "channels=0.25 keeps 60 of 96 filters, more than twice what was asked for; what stays: stuck."
    )
    assert warned(lambda: fp.plan(Half(), IMAGES, importance=L2, channels=0.5)) == []
    # what the user wants left alone is not missing, nor what no pattern means
    assert warned(lambda: fp.plan(Half(), IMAGES, importance=L2, channels=0.25, ignore="stuck")) == []
    assert warned(lambda: fp.plan(Half(), IMAGES, importance=L2, channels={"free": 0.25})) == []
    assert len(warned(lambda: fp.plan(Half(), IMAGES, importance=L2, channels={"stuck": 0.9}))) == 1


def test_a_cap_that_keeps_more_than_twice_as_much() -> None:
    (said,) = warned(lambda: fp.plan(Chain(torch.relu), IMAGES, importance=L2, channels=0.01))
    assert "keeps 6 of 48 filters" in said and "largest_cut, and the two channels" in said


def test_rounding_that_keeps_everything() -> None:
    (said,) = warned(lambda: fp.plan(Chain(torch.relu), IMAGES, importance=L2, channels=0.8, round_to=16))
    assert said.startswith("channels=0.8 removes nothing; widths are rounded to multiples of 16")


def test_a_threshold_that_finds_nothing_dead() -> None:
    (said,) = warned(lambda: fp.plan(Chain(torch.relu), IMAGES, threshold=1e-6))
    assert said.startswith("threshold=1e-06 removes nothing: no filter that may leave is below it;")
    assert "train on, or raise the threshold" in said


@pytest.mark.parametrize(
    "budget", [{"channels": 1.0}, {"macs": 1.0}, {"params": "1G"}, {"channels": {"layers.*": 1.0}}]
)
def test_a_plan_that_was_asked_to_take_nothing(budget: dict[str, Any]) -> None:
    assert warned(lambda: fp.plan(Chain(torch.relu), IMAGES, importance=L2, **budget)) == []


@pytest.mark.parametrize("verb", ["prune", "steps", "both"])
def test_every_verb_warns_once(verb: str) -> None:
    def make() -> None:
        if verb == "prune":
            fp.prune(stuck(), IMAGES, importance=L2, channels=0.5)
        elif verb == "steps":
            fp.prune_iteratively(stuck(), IMAGES, steps=3, importance=L2, channels=0.5)
        else:
            fp.plan(stuck(), IMAGES, importance=L2, channels=0.5, heads="both")

    assert len(warned(make)) == 1
    made = fp.plan(Chain(torch.relu), IMAGES, importance=L2, channels=0.5)
    assert warned(lambda: fp.prune(Chain(torch.relu), made)) == []


def test_a_plan_in_steps_that_takes_what_it_should_is_silent() -> None:
    network = Chain(torch.relu)
    assert warned(lambda: fp.prune_iteratively(network, IMAGES, steps=3, importance=L2, channels=0.25)) == []
    assert warned(lambda: fp.plan(network, IMAGES, importance=L2, channels=0.25, heads="both")) == []
    assert warned(lambda: fp.sensitivity(network, IMAGES, lambda small: 1.0, shares=(0.01, 0.5), importance=L2)) == []


@pytest.mark.parametrize(
    "budget",
    [
        {"macs": 0.5},
        {"params": 0.5},
        {"latency": "1ns"},
        {"macs": 0.5, "heads": "both"},
        {"params": "1", "heads": "both"},
    ],
)
def test_a_budget_that_cannot_be_met_gives_the_reasons(budget: dict[str, Any]) -> None:
    with pytest.raises(UnreachableBudgetError) as caught:
        fp.plan(stuck(), IMAGES, importance=L2, **budget)
    said = str(caught.value)
    assert (
        said.count("what stays: layers.0.weight and 2 more: passes through aten.cumsum, which has no coupling rule")
        == 1
    )
    assert "\n" not in said and caught.value.smallest > 0
