"""A dead filter in front of a gate that data opens is no constant behind it: by a threshold the outputs stay the dense model's."""

from __future__ import annotations

import pytest
import torch
from random_conditions import CONDITIONS, Conditioned
from random_gates import GATES, ChannelsFirstRMSNorm, Gated, WrittenRMSNorm
from random_lookups import LOOKUPS, LookedUp
from torch import Tensor, nn
from twin_property import distance

from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

DEAD = list(range(6))


class Between(nn.Module):
    """Six of sixteen filters are dead, and say one or minus one; ``between`` stands in front of what reads them."""

    def __init__(self, between: nn.Module, beta: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.between, self.second, self.last = between, nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)
        with torch.no_grad():
            self.norm.weight[DEAD] = 0.0
            self.norm.bias[DEAD] = beta

    def forward(self, x: Tensor, *further: Tensor) -> Tensor:
        y = self.between(torch.relu(self.norm(self.first(x))), *further)
        return self.last(torch.relu(self.second(y)))


class Gate(nn.Module):
    """What a gate of one channel makes of the map it is read off."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.read = how, nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.read(x)
        if self.how == "compared":
            return x * (gate > 0).float()
        if self.how == "where":
            return torch.where(gate > 0, x, torch.zeros_like(x))
        return x * (torch.nan_to_num(gate) if self.how == "nan_to_num" else torch.sigmoid(gate))


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, dtype=torch.float64)


def removed_and_difference(model: nn.Module, inputs: list[tuple[Tensor, ...]], tolerance: float) -> tuple[int, float]:
    """Filters that leave by a threshold; and how far the outputs are from the dense model's, on any of the inputs."""
    model = model.double().eval()
    made = plan(model, inputs[0], threshold=0.01, fold_tolerance=tolerance)
    return made.filters_removed, distance(prune(model, made).eval(), model, inputs)


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
@pytest.mark.parametrize("how", ["compared", "where", "nan_to_num", "sigmoid"])
def test_behind_a_gate_a_constant_is_none(how: str, tolerance: float) -> None:
    torch.manual_seed(0)
    removed, difference = removed_and_difference(Between(Gate(how)), [(images(),) for _ in range(4)], tolerance)
    assert difference < 1e-12
    assert removed == 0


def test_without_a_gate_it_goes_into_the_bias() -> None:
    torch.manual_seed(0)
    removed, difference = removed_and_difference(Between(nn.Identity()), [(images(),) for _ in range(4)], 0.0)
    assert removed == len(DEAD) and difference < 1e-12


@pytest.mark.parametrize("beta", [1.0, -1.0])
@pytest.mark.parametrize("how", GATES)
def test_every_gate(how: str, beta: float) -> None:
    torch.manual_seed(0)
    model = Between(Gated(16, 8, how), beta)
    _, difference = removed_and_difference(model, [(images(),) for _ in range(4)], 0.0)
    assert difference < 1e-12


@pytest.mark.parametrize("beta", [1.0, -1.0])
@pytest.mark.parametrize("how", LOOKUPS)
def test_every_lookup(how: str, beta: float) -> None:
    torch.manual_seed(0)
    model = Between(LookedUp(16, 8, how), beta)
    _, difference = removed_and_difference(model, [(images(),) for _ in range(4)], 0.0)
    assert difference < 1e-12


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_further_input(condition: str, plain: bool) -> None:
    """Other numbers, marks and floats than those the plan was made with; ``plain`` are zeros and marks that are all set."""
    torch.manual_seed(0)
    between = Conditioned(nn.Identity(), 16, 8, condition, residual=False)
    inputs = [(images(), between.further_input(4, plain and not number)) for number in range(4)]
    _, difference = removed_and_difference(Between(between), inputs, 0.0)
    assert difference < 1e-12


@pytest.mark.parametrize("norm", [lambda: ChannelsFirstRMSNorm(16, 1e-5), lambda: WrittenRMSNorm(16)])
def test_zeros_count_in_a_mean_over_the_channels(norm: type[nn.Module]) -> None:
    """A channel of nothing but zeros adds nothing to an RMS norm's sum, yet without it the mean is another."""
    torch.manual_seed(0)
    _, difference = removed_and_difference(Between(norm(), -1.0), [(images(),) for _ in range(4)], 0.0)
    assert difference < 1e-12


def test_numbers_that_the_plan_was_not_made_with() -> None:
    """All of them zero, and then all of them seven."""

    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(10, 16)

        def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
            return x * self.rows(numbers)[:, :, None, None]

    torch.manual_seed(0)
    inputs = [(images(), torch.full((4,), number)) for number in (0, 7)]
    removed, difference = removed_and_difference(Between(Embedded()), inputs, 0.05)
    assert removed == 0 and difference < 1e-12


def test_a_grouped_reader_reads_the_same_place_in_every_group() -> None:
    """One of the two channels that leave together is silent, the other is not."""
    torch.manual_seed(0)
    model = Between(nn.Conv2d(16, 16, 1, groups=2))
    with torch.no_grad():
        model.norm.weight[8:14] = 0.0
        model.norm.bias[:6], model.norm.bias[8:14] = -1.0, 1.0
    _, difference = removed_and_difference(model, [(images(),) for _ in range(4)], 0.0)
    assert difference < 1e-12


def test_other_budgets_plan_as_ever() -> None:
    torch.manual_seed(0)
    model = Between(Gate("compared")).double().eval()
    made = plan(model, images(), macs=0.8, importance=L2())
    assert 0.7 < made.macs[1] / made.macs[0] <= 0.8
