"""Dead filters are constants: folded where that is right, kept where it is not."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import largest_difference, randomized
from torch import nn

from flowprune.pruning import plan, prune


def network(
    padding: int, kernel: int, bias: bool = False, behind: type[nn.Module] | None = nn.BatchNorm2d
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 12, kernel, padding=padding, bias=bias),
    ]
    if behind is not None:
        layers.append(behind(12))
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def kill(norm: nn.Module, dead: list[int], constants: float) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[dead] = 0.0
        norm.bias[dead] = constants


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("constant", [0.7, -0.7])
def test_unpadded_consumers_take_the_constant_exactly(bias: bool, constant: float) -> None:
    """Into the bias, or into the next running mean; a constant below zero before a ReLU is plain removal."""
    torch.manual_seed(0)
    model = randomized(network(padding=0, kernel=3, bias=bias)).double().eval()
    kill(model[1], [2, 5, 9], constant)
    images = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert made.removed["0.weight"][0] == (2, 5, 9)
    if constant > 0:
        (fold,) = made.folds
        assert (fold.channels, fold.exact, fold.target) == (3, True, "3.bias" if bias else "4.running_mean")
        assert "3 constant channels" in str(made)
    else:
        assert made.folds == ()
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-12


def test_linear_consumer_behind_a_flatten_takes_the_constant_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 5)
    )
    model = randomized(model).double().eval()
    kill(model[1], [1, 6], 0.4)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert made.removed["5.weight"][1] == (*range(9, 18), *range(54, 63))
    assert made.folds[0].target == "5.bias" and made.folds[0].exact
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-12


def test_padded_consumer_takes_the_mean_and_says_how_far_off_it_is() -> None:
    torch.manual_seed(0)
    model = randomized(network(padding=1, kernel=3)).double().eval()
    kill(model[1], [3], 0.05)
    images = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2, fold_tolerance=10.0)
    (fold,) = made.folds
    assert not fold.exact

    # The reference: what channel 3 adds to each position of the second convolution, in deviations of its output.
    alone = torch.zeros(1, 16, 10, 10, dtype=torch.float64)
    alone[:, 3] = 0.05
    response = nn.functional.conv2d(alone, model[3].weight, padding=1)[0].flatten(1)
    deviation = model[4].running_var.sqrt()[:, None]
    expected = ((response - response.mean(1, keepdim=True)).abs() / deviation).max()
    assert fold.largest_change == pytest.approx(expected.item(), rel=1e-9)
    small = prune(model, made)
    assert torch.allclose(small[4].running_mean, model[4].running_mean - response.mean(1), atol=1e-12)


def test_beyond_the_tolerance_a_dead_filter_stays_and_is_counted() -> None:
    torch.manual_seed(0)
    model = randomized(network(padding=1, kernel=3)).double().eval()
    kill(model[1], [3, 4], 5.0)
    with torch.no_grad():
        model[1].bias[4] = -1.0
    made = plan(model, torch.randn(1, 3, 10, 10, dtype=torch.float64), threshold=1e-2, fold_tolerance=1e-3)
    assert made.removed["0.weight"][0] == (4,)
    assert made.kept_alive == {"0": 1}
    assert "kept: 1 dead filters of 0" in str(made)


def test_a_constant_with_nowhere_to_go_stays() -> None:
    """Group norm behind a bias-free consumer normalises the constant away differently."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.GroupNorm(2, 6),
        nn.Flatten(),
    )
    model = randomized(model).double().eval()
    kill(model[1], [0], 0.5)
    made = plan(model, torch.randn(1, 3, 8, 8, dtype=torch.float64), threshold=1e-2)
    assert made.is_empty and made.kept_alive == {"0": 1}


def test_constants_run_through_pooling_and_concatenation() -> None:
    class Concatenated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = (nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU()) for _ in range(2))
            self.join = nn.Conv2d(12, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both = torch.cat([self.left(x), nn.functional.max_pool2d(self.right(x), 3, 1, 1)], 1)
            return self.join(both).mean((2, 3))

    torch.manual_seed(0)
    model = randomized(Concatenated()).double().eval()
    kill(model.left[1], [0], 0.3)
    kill(model.right[1], [4, 5], 0.2)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert made.removed["join.weight"][1] == (0, 10, 11)
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-12


def test_dead_branch_ends_stay_because_their_stream_lives() -> None:
    import flowprune.models as models

    model = randomized(models.create("resnet8")).double().eval()
    kill(model.layer1[0].bn2, list(range(16)), 0.0)
    made = plan(model, torch.randn(1, 3, 32, 32, dtype=torch.float64), threshold=1e-2)
    assert "layer1.0.conv2.weight" not in made.removed


def test_a_channel_is_not_dead_whose_other_maker_nobody_can_judge() -> None:
    """A matrix of one's own makes the same channels as a dead convolution: they live."""

    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(8, 3))
            self.short = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            own = torch.einsum("nchw,dc->ndhw", x, self.matrix)
            return self.head(torch.relu(own + self.short(x)))

    torch.manual_seed(0)
    model = randomized(Projected()).double().eval()
    kill(model.short[1], list(range(8)), 0.0)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-12


@pytest.mark.parametrize("constant", [0.0, 0.6])
def test_a_gate_makes_nothing_of_zero_but_something_of_a_constant(constant: float) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.made = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
            self.gate, self.head = nn.Conv2d(3, 1, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.made(x) * torch.sigmoid(self.gate(x)))

    torch.manual_seed(0)
    model = randomized(Gated()).double().eval()
    kill(model.made[1], [1, 2], constant)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert made.is_empty is (constant != 0)
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-12


def test_a_layer_that_is_called_twice_takes_no_constant_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.made = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8))
            self.stem, self.read, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for _ in range(2):
                x = self.read(self.made(x))
            return self.head(x)

    torch.manual_seed(0)
    model = randomized(Twice()).double().eval()
    kill(model.made[1], [1, 2], 0.6)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-12


def test_a_filter_without_weights_says_what_its_bias_makes_of_the_statistics() -> None:
    """Whatever the running mean was before the weights were gone."""
    torch.manual_seed(0)
    model = randomized(network(padding=0, kernel=1)).double().eval()
    model[0].bias = nn.Parameter(torch.full((16,), 0.25, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight[[3, 7]] = 0.0
        model[1].bias[[3, 7]] = 2.0
        model[1].weight[[3, 7]] = 1.5
        model[1].running_var[[3, 7]] = 1e-14  # what the norm has seen since
    images = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    made = plan(model, images[:1], threshold=1e-2)
    assert made.removed["0.weight"][0] == (3, 7)
    assert largest_difference(model(images), prune(model, made)(images)) < 1e-9


def test_a_filter_that_still_varies_leaves_its_mean_behind() -> None:
    """The statistics are those of the images; the constant that leaves least behind is the mean, which is beta."""
    torch.manual_seed(0)
    model = network(padding=0, kernel=1).double()
    images = torch.randn(64, 3, 10, 10, dtype=torch.float64) + 3.0
    with torch.no_grad():
        model[1].momentum = None
        model.train()(images)
        model.eval()
        model[1].weight[[3, 7]] = 0.02
        model[1].bias[[3, 7]] = 1.0
    made = plan(model, images[:1], threshold=0.1)
    assert made.removed["0.weight"][0] == (3, 7)
    small = prune(model, made).eval()
    assert made.folds[0].target == "4.running_mean"
    dense, left = model[:5](images), small[:5](images)
    assert (dense - left).mean(dim=(0, 2, 3)).abs().max() < 1e-4 * dense.abs().max()
