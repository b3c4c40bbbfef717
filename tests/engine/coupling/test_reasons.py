"""Why a weight's filters stay is said truly: the operator, the module it runs in, and the fact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn
from torch.nn import functional as F

import flowprune as fp

PLAIN = ", a number written in the code, kept outside of its modules, or made by int() or from floats"
Middle = Callable[[nn.Module, Tensor], Tensor]


class Body(nn.Module):
    """Whatever ``middle`` does to 16 channels."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.middle, self.width = middle, 16
        self.weight = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self, x)


class Around(nn.Module):
    """A convolution before and one after it."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Conv2d(3, 16, 1), Body(middle), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.first(x)))


REASONS: dict[str, tuple[Middle, str]] = {
    "no rule": (lambda net, x: x.cumsum(3), "passes through aten.cumsum, which has no coupling rule (in body)"),
    "over channels": (lambda net, x: x * x.amax(1, keepdim=True), "aten.amax is taken over the channels (in body)"),
    "a softmax": (lambda net, x: x.softmax(1), "a softmax is taken over the channels (aten._softmax in body)"),
    "a mask": (
        lambda net, x: F.dropout2d(x, 0.1, training=True),
        "meets a tensor that is spread over the same dimension and is not made of channels (aten.mul in body)",
    ),
    "picked": (lambda net, x: x[:, torch.arange(15, -1, -1)], "channels are picked by numbers (aten.index in body)"),
    "strides": (
        lambda net, x: x.clone().as_strided_(x.shape, x.stride()),
        "its elements are placed anew by strides (aten.as_strided_ in body)",
    ),
    "a number": (
        lambda net, x: torch.cat([x[:, :15], x[:, :1]], 1),
        f"a slice ends at 15{PLAIN} (aten.slice in body)",
    ),
    "a number made by int()": (
        lambda net, x: x.reshape(x.shape[0], int(x.shape[1] / 1), -1).reshape(x.shape),
        f"reshaped to 16{PLAIN} (aten.view in body)",
    ),
    "rows of a number": (
        lambda net, x: x.view(x.shape[0], x.shape[1] // 8, 8, *x.shape[2:]).view(x.shape),
        f"reshaped to 8{PLAIN} (aten.view in body)",
    ),
    "attributes": (
        lambda net, x: x[:, : net.width - 1].cos().repeat(1, 2, 1, 1)[:, :16],  # type: ignore[operator]
        "a slice ends at 15, which the code computes from body.width (aten.slice in body)",
    ),
    "a negative attribute": (
        lambda net, x: torch.cat([x[:, : -net.width // 16], x[:, :1]], 1),  # type: ignore[operator]
        "a slice ends at -1, which the code computes from body.width (aten.slice in body)",
    ),
    "a scale": (
        lambda net, x: x * x.shape[1] ** -0.5,
        "the cut could not be certified: the argument other of aten.mul is 0.3535533905932738 instead of 0.25: the code "
        "computes it from a width (aten.mul in body)",
    ),
    "groups": (
        lambda net, x: F.group_norm(x, 16, net.weight),
        "a group that could only leave as a whole (aten.native_group_norm in body)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_a_reason_names_the_operator_the_module_and_the_fact(case: str) -> None:
    torch.manual_seed(0)
    middle, reason = REASONS[case]
    made = fp.plan(Around(middle), torch.randn(2, 3, 8, 8), importance=fp.importance.L2(), channels=0.5)
    assert made.frozen["first.weight"].removeprefix("15 of 16 filters: ") == reason


def equals_its_twin(model: nn.Module, inputs: Tensor) -> bool:
    """A plan that takes half of the first layer's filters, and gives what its twin gives."""
    model, inputs = randomized(model).double().eval(), inputs.double()
    made = fp.plan(model, inputs, importance=fp.importance.Random(seed=0), channels=0.5)
    with torch.no_grad():
        difference = largest_difference(fp.prune(model, made).eval()(inputs), silenced_twin(model, made)(inputs))
    return len(made.removed.get("first.weight", {}).get(0, ())) == 8 and difference < 1e-10


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: (x[:, : -(x.shape[1] // 2)].sigmoid() + x[:, x.shape[1] // 2 :]).repeat(1, 2, 1, 1),
        lambda net, x: x.view(x.shape[0], 2, x.shape[1] >> 1, *x.shape[2:]).sum(1).repeat(1, 2, 1, 1),
        lambda net, x: x[:, x.shape[1] % 2 :],
    ],
    ids=["minus", "shift", "remainder"],
)
def test_whole_number_arithmetic_on_a_width_follows_it(middle: Middle) -> None:
    assert equals_its_twin(Around(middle), torch.randn(2, 3, 8, 8))


def test_numbers_of_positions_in_a_buffer_are_no_channels() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.table, self.last = nn.Linear(3, 16), nn.Embedding(4, 16), nn.Linear(16, 3)
            self.register_buffer("ids", torch.arange(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x) + self.table(self.ids)))

    assert equals_its_twin(Positions(), torch.randn(2, 4, 3))


def test_a_slice_that_a_cut_leaves_nothing_of() -> None:
    def narrowed(net: nn.Module, x: Tensor) -> Tensor:
        few = x.shape[1] // 16
        return torch.cat([x.narrow(1, 0, few).sigmoid(), x.narrow(1, few, x.shape[1] - few)], 1)

    model = Around(narrowed)
    with torch.no_grad():
        model.first.weight[0] = 10.0  # the plan keeps it, and the code's arithmetic would not
    made = fp.plan(model, torch.randn(2, 3, 8, 8), importance=fp.importance.L2(), channels=0.5)
    assert "aten.slice returns a tensor of shape (2, 0, 8, 8) instead of (2, 1, 8, 8)" in made.frozen["first.weight"]


def test_a_size_computed_from_another_size_and_an_attribute() -> None:
    class Widened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.more, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(20, 3, 1)
            self.extra = 4

        def forward(self, x: Tensor) -> Tensor:
            some = self.first(x)
            both = torch.cat([some, self.more(x)], 1).reshape(x.shape[0], some.shape[1] + self.extra, -1)
            return self.last(both[..., None])

    made = fp.plan(Widened(), torch.randn(2, 3, 8, 8), importance=fp.importance.L2(), channels=0.5)
    assert set(made.frozen) >= {"last.weight"}


def test_a_scale_computed_from_a_width_keeps_that_width_alone() -> None:
    """Attention with one head, in the model's own forward: the width of its queries and keys."""

    class OneHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(3, 16), nn.Linear(16, 24), nn.Linear(24, 3)
            self.queries, self.keys, self.values = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            queries, keys = self.queries(x), self.keys(x)
            weights = (queries @ keys.transpose(1, 2) * queries.shape[2] ** -0.5).softmax(-1)
            return self.last(torch.relu(self.inner(weights @ self.values(x))))

    model = randomized(OneHead()).double().eval()
    assert equals_its_twin(model, torch.randn(2, 5, 3))
    made = fp.plan(model, torch.randn(2, 5, 3).double(), importance=fp.importance.L2(), channels=0.5)
    assert set(made.frozen) == {"queries.weight", "keys.weight", "last.weight"}
    assert "the code computes it from a width" in made.frozen["keys.weight"]
