"""What the code makes of floats (indices, lengths, decisions, checks) is made of the example's only, never of invented ones."""

from __future__ import annotations

import pytest
import torch
from silenced_twin import silenced_twin
from torch import Tensor, nn
from torch.nn import functional
from twin_limits import undefined
from twin_property import distance

from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune


def unit(inside: int, outside: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


def killed(model: nn.Module, first: nn.Sequential, second: nn.Sequential) -> nn.Module:
    """Six filters of each are dead: the first ones' constant ends at a ReLU, the second ones' does not."""
    with torch.no_grad():
        for layer, beta in ((first, -0.1), (second, 0.3)):
            layer[1].weight[:6] = 0.0
            layer[1].bias[:6] = beta
    return model.double().eval()


class Coordinates(nn.Module):
    """A network that reads coordinates between 0 and 1, and raises for others where it checks them or looks something up."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.head = unit(3, 16), unit(16, 16), nn.Linear(16, 3)
        self.rows = nn.Embedding(10, 16)
        self.register_buffer("table", torch.randn(10, 16))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.head(self.second(self.between(x, self.first(x), c)).mean((2, 3)))

    def between(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        number, square = (c * 9).long(), torch.eye(3, dtype=c.dtype)
        if self.how == "embedding":
            return h + self.rows(number).view(-1, 16, 1, 1)
        if self.how == "index":
            return h + self.table[number].view(-1, 16, 1, 1)
        if self.how == "gather":
            return h + self.table.gather(0, number.view(-1, 1).expand(-1, 16)).view(-1, 16, 1, 1)
        if self.how == "one_hot":
            return h + (functional.one_hot(number, 10).to(h.dtype) @ self.table).view(-1, 16, 1, 1)
        if self.how == "length":
            return h[..., : (int(c.max() * 4) + 1) * 2]
        if self.how == "repetitions":
            return torch.stack([h * 0 + i for i in range(int(c.sum()) + 1)]).mean(0)
        if self.how == "assertion":
            assert torch.isfinite(x).all()
        if self.how == "check" and not bool((c >= 0).all()):
            raise ValueError("negative coordinates")
        if self.how == "histogram":
            return h * torch.histc(h.detach(), bins=4, min=0, max=1).sum() / 100
        if self.how == "eigenvalues":
            return h * torch.linalg.eigh(square * c.mean())[0].sum()
        if self.how == "singular values":
            return h * torch.linalg.svdvals(h.mean((0, 1))).sum()
        if self.how == "cholesky":
            return h * torch.linalg.cholesky(square * (c.mean() + 1)).sum()
        if self.how == "multinomial":
            return h + torch.multinomial(c.clamp(0.1), 1)
        if self.how == "bernoulli":
            return h * torch.bernoulli(c.clamp(0, 1)).view(-1, 1, 1, 1)
        return h


HOW = (
    *("plain", "embedding", "index", "gather", "one_hot", "length", "repetitions", "assertion", "check", "histogram"),
    *("eigenvalues", "singular values", "cholesky", "multinomial", "bernoulli"),
)


class Seeded(nn.Module):
    """The same random numbers at every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Tensor) -> Tensor:
        torch.manual_seed(5)
        return self.model(*arguments)


@pytest.mark.parametrize("how", HOW)
def test_planned_and_equal_to_the_dense_model(how: str) -> None:
    torch.manual_seed(0)
    network = Coordinates(how)
    model = killed(network, network.first, network.second)
    draw = torch.float64
    inputs = [(torch.randn(2, 3, 8, 8, dtype=draw), torch.rand(2, dtype=draw)) for _ in range(4)]
    made = plan(model, inputs[0], threshold=0.01, fold_tolerance=0)
    assert distance(Seeded(prune(model, made).eval()), Seeded(model), inputs) < 1e-12
    if how not in (
        "length",
        "repetitions",
        "assertion",
        "check",
    ):  # where Python goes on with a number, nothing is known
        assert made.removed["second.0.weight"][0] == tuple(range(6))
    if how == "plain":
        assert made.removed["first.0.weight"][0] == tuple(range(6))


@pytest.mark.parametrize("how", HOW)
def test_half_of_the_channels_leave_as_ever(how: str) -> None:
    torch.manual_seed(0)
    network = Coordinates(how)
    model = killed(network, network.first, network.second)
    draw = torch.float64
    inputs = [(torch.randn(2, 3, 8, 8, dtype=draw), torch.rand(2, dtype=draw)) for _ in range(4)]
    made = plan(model, inputs[0], channels=0.5, importance=L2())
    twin = silenced_twin(model, made)
    assert undefined(Seeded(model), Seeded(twin), inputs) is None
    assert distance(Seeded(prune(model, made).eval()), Seeded(twin), inputs) < 1e-12
