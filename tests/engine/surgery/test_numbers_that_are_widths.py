"""A number that is a width and something else, too: what else it does shows on other inputs only, or where data decides sizes.

The certificate runs the example inputs. There a limit of positions that follows a cut may cut off nothing; and behind a place where
data decides how much is returned, other numbers among the arguments are the data's doing. So such widths stay.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from silenced_twin import randomized, silenced_twin
from torch import Tensor, nn
from torch.nn import functional as F

from flowprune.methods.importance import Random
from flowprune.pruning import plan, prune


class Sequences(nn.Module):
    """Tokens of 16 channels; ``positions`` does something to them by ``width``."""

    def __init__(self, positions: Callable[[Sequences, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.positions, self.width = positions, 16

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.positions(self, x))
        return self.last(torch.relu(self.body(x)).mean(1))


def compared(net: Sequences, x: Tensor) -> Tensor:
    """The width is compared with the attribute: it would follow a cut."""
    return x if x.shape[-1] == net.width else x * 0


def padded(net: Sequences, x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, -x.shape[1] % net.width), value=1.0)


WIDTHS_THAT_LIMIT: dict[str, Callable[[Sequences, Tensor], Tensor]] = {
    "the end of a slice": lambda net, x: x[:, : x.shape[2]],
    "the start of a slice": lambda net, x: x[:, -x.shape[2] :],
    "the smaller one": lambda net, x: x[:, : min(x.shape[1], x.shape[2])],
    "a part of a split": lambda net, x: x.split(x.shape[2], 1)[0],
    "a condition": lambda net, x: x * 2 if x.shape[1] > x.shape[2] else x,
    "a remainder": lambda net, x: F.pad(x, (0, 0, 0, -x.shape[1] % x.shape[2]), value=1.0),
    "a ratio of floats": lambda net, x: x * (1 + int(x.shape[1] / x.shape[2])),
}

MORE_THAN_WIDTHS: dict[str, Callable[[Sequences, Tensor], Tensor]] = {
    "the end of a slice": lambda net, x: compared(net, x)[:, : net.width],
    "the start of a slice": lambda net, x: compared(net, x)[:, -net.width :],
    "the smaller one": lambda net, x: compared(net, x)[:, : min(x.shape[1], net.width)],
    "a part of a split": lambda net, x: compared(net, x).split(net.width, 1)[0],
    "a condition": lambda net, x: compared(net, x) * 2 if x.shape[1] > net.width else compared(net, x),
    "a condition on half of it": lambda net, x: compared(net, x) * (2 if x.shape[1] * 2 >= net.width * 2 else 1),
    "any size": lambda net, x: (x if net.width in x.shape else x * 0)[:, : net.width],
    "a remainder": lambda net, x: padded(net, compared(net, x)),
    "a ratio": lambda net, x: compared(net, x) * (1 + x.shape[1] // net.width),
    "a ratio of floats": lambda net, x: compared(net, x) * (1 + int(x.shape[1] / net.width)),
    "both parts of a division": lambda net, x: compared(net, x) * (1 + divmod(x.shape[1], net.width)[0]),
    "the width of a view": lambda net, x: x.reshape(x.shape[0], x.shape[1], net.width)[:, : net.width],
}


def equals_its_twin_at_other_lengths(positions: Callable[[Sequences, Tensor], Tensor]) -> str:
    """The reason why the first layer's filters stay; those of ``body`` leave."""
    torch.manual_seed(0)
    model = randomized(Sequences(positions)).double().eval()
    made = plan(model, torch.randn(2, 7, 3, dtype=torch.float64), importance=Random(seed=0), channels=0.5)
    small, twin = prune(model, made).eval(), silenced_twin(model, made)
    assert 0 in made.removed["body.weight"]
    for length in (5, 7, 8, 12, 16, 20):
        images = torch.randn(2, length, 3, dtype=torch.float64)
        with torch.no_grad():
            assert torch.allclose(small(images), twin(images), rtol=0, atol=1e-10), length
    return made.frozen["first.weight"]


@pytest.mark.parametrize("case", MORE_THAN_WIDTHS)
def test_an_attribute_that_also_limits_positions_stays(case: str) -> None:
    reason = equals_its_twin_at_other_lengths(MORE_THAN_WIDTHS[case])
    assert reason.startswith("the model's width counts them, and positions are cut")


@pytest.mark.parametrize("case", WIDTHS_THAT_LIMIT)
def test_a_width_that_limits_positions_stays(case: str) -> None:
    assert "positions are cut at" in equals_its_twin_at_other_lengths(WIDTHS_THAT_LIMIT[case])


class Finder(nn.Module):
    """What is found at positions above the mean is changed by ``what``, which is given 16 channels, and three numbers an entry."""

    def __init__(self, what: Callable[[Finder, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.what = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1), what
        self.other, self.reader = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 3, 1)
        self.wide, self.width = nn.Linear(3, 32), 16

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.relu(self.first(x))
        tokens = x.flatten(2).transpose(1, 2)
        found = self.what(self, inside, tokens[tokens.sum(2) > 0])
        return self.last(inside).sum((2, 3)) + self.reader(torch.relu(self.other(x))).sum((2, 3)) + found.sum(0)[:3]


WIDTHS_AMONG_NUMBERS: dict[str, Callable[[Finder, Tensor, Tensor], Tensor]] = {
    "a scale": lambda net, inside, found: found * inside.shape[1] ** -0.5,
    "a scale by division": lambda net, inside, found: found / (inside.shape[1] / 2),
    "a scale by a root": lambda net, inside, found: (
        found * torch.tensor(float(inside.shape[1]), dtype=found.dtype).sqrt()
    ),
    "a whole number": lambda net, inside, found: found * inside.shape[1],
    "a number without a size": lambda net, inside, found: found * int(inside.shape[1]),
    "a count of entries": lambda net, inside, found: found * inside.numel(),
    "an attribute": lambda net, inside, found: found * (net.width if inside.shape[1] == net.width else 0),
    "a root of an attribute": lambda net, inside, found: (
        found * (net.width if inside.shape[1] == net.width else 0) ** 0.5
    ),
    "rows of a view": lambda net, inside, found: (
        found.flatten().repeat(48).view(-1, 3 * inside.shape[1]).amax(1, keepdim=True).expand(-1, 3)
    ),
    "rows of frozen channels": lambda net, inside, found: (
        net.wide(found).view(-1, inside.shape[1] + inside.shape[1]).amax(1, keepdim=True).expand(-1, 3)
    ),
    "an end": lambda net, inside, found: found.flatten()[: inside.shape[1]][:, None].expand(-1, 3),
    "a condition": lambda net, inside, found: found * 2 if int(found.numel()) > inside.shape[1] * 5 else found,
}


@pytest.mark.parametrize("case", WIDTHS_AMONG_NUMBERS)
def test_a_width_among_the_numbers_behind_what_data_decides_stays(case: str) -> None:
    torch.manual_seed(0)
    model = randomized(Finder(WIDTHS_AMONG_NUMBERS[case])).double().eval()
    made = plan(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), importance=Random(seed=0), channels=0.5)
    small, twin = prune(model, made).eval(), silenced_twin(model, made)
    assert 0 in made.removed["other.weight"]
    for _ in range(3):
        images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        with torch.no_grad():
            assert torch.allclose(small(images), twin(images), rtol=0, atol=1e-10)
    assert "first.weight" in made.frozen


def test_what_follows_the_channels_there_may_still_leave() -> None:
    def widened(net: Finder, inside: Tensor, found: Tensor) -> Tensor:
        kept = inside.flatten(2)[:, :, torch.arange(36) % 3 > 0].transpose(1, 2)
        return found.mean() + net.last(kept.reshape(-1, inside.shape[1], 1, 1)).flatten(1).mean(0, keepdim=True)

    torch.manual_seed(0)
    model = randomized(Finder(widened)).double().eval()
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    made = plan(model, images, importance=Random(seed=0), channels=0.5)
    assert 0 in made.removed["first.weight"]
    with torch.no_grad():
        assert torch.allclose(prune(model, made).eval()(images), silenced_twin(model, made)(images), rtol=0, atol=1e-10)


def test_steps_of_a_range_are_not_seen() -> None:
    """What docs/architecture.md says of them. Once this fails, the page can say less."""
    model = randomized(
        Sequences(lambda net, x: x + sum(compared(net, x)[:, i : i + 1] for i in range(0, x.shape[1], net.width)))
    )
    model, images = model.double().eval(), torch.randn(2, 7, 3, dtype=torch.float64)
    made = plan(model, images, importance=Random(seed=0), channels=0.5)
    small, twin = prune(model, made).eval(), silenced_twin(model, made)
    with torch.no_grad():
        assert torch.allclose(small(images), twin(images), rtol=0, atol=1e-10)
        longer = torch.randn(2, 12, 3, dtype=torch.float64)
        assert not torch.allclose(small(longer), twin(longer), rtol=0, atol=1e-10)


def test_widths_of_torch_s_own_modules_are_not_seen_where_data_decides() -> None:
    """Likewise."""
    model = randomized(Finder(lambda net, inside, found: found * net.first.out_channels)).double().eval()
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    made = plan(model, images, importance=Random(seed=0), channels=0.5)
    small, twin = prune(model, made).eval(), silenced_twin(model, made)
    with torch.no_grad():
        assert not torch.allclose(small(images), twin(images), rtol=0, atol=1e-10)
