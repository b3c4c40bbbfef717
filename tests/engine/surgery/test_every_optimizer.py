"""Whatever optimizer trained the dense model goes on training the small one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.optimization import Adafactor

from flowprune.engine.allocation import Plan
from flowprune.engine.surgery.optimizer_state import UncutStateError, cut_state
from flowprune.errors import FlowpruneWarning
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Make = Callable[[nn.Module], Optimizer]


class Network(nn.Module):
    """Square and oblong weights, and a scale without a dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = width * 8 // 5
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.third, self.head = nn.Linear(width, wide), nn.Linear(wide, 4)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3))
        return self.scale * self.head(torch.relu(self.third(x)))


def network(width: int = 40) -> Network:
    torch.manual_seed(0)
    return Network(width)


@lru_cache
def halved(width: int) -> Plan:
    """What leaves follows the untrained weights."""
    return plan(network(width), X, importance=L2(), channels=0.5)


@pytest.fixture
def made() -> Plan:
    """To widths that timm's Adafactor still factors."""
    return halved(40)


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Kron compiles its products; what it computes is the same without."""
    with torch.compiler.set_stance("force_eager"):
        yield


def train(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> float:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward(create_graph=getattr(optimizer, "is_second_order", False))
        return loss

    for _ in range(steps):
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return float(model(X).detach().square().mean())


def of_timm(name: str, **options: object) -> Make:
    return lambda model: timm.optim.create_optimizer_v2(model, opt=name, lr=1e-3, **options)


def of_torch(name: str, **options: object) -> Make:
    def make(model: nn.Module) -> Optimizer:
        matrices = [p for p in model.parameters() if p.dim() == 2]
        return getattr(torch.optim, name)(matrices if name == "Muon" else model.parameters(), lr=1e-3, **options)

    return make


TORCH = [
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer and name != "SparseAdam"
]
# what needs a library of its own (apex, bitsandbytes) cannot be made here
TIMM = timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*"])
EVERY: dict[str, Make] = {
    **{f"torch-{name}": of_torch(name) for name in TORCH},
    **{f"timm-{name}": of_timm(name) for name in TIMM},
    "timm-kron-one_diag": of_timm("kron", memory_save_mode="one_diag"),
    "timm-kron-flatten": of_timm("kron", flatten=True),
    "timm-lookahead_adafactor": of_timm("lookahead_adafactor"),
    "timm-adafactor-momentum": of_timm("adafactor", betas=(0.9, 0.99)),
    "transformers": lambda model: Adafactor(model.parameters()),
    "transformers-momentum": lambda model: Adafactor(model.parameters(), lr=1e-3, relative_step=False, beta1=0.9),
}
ANEW = {"torch-LBFGS": "history", "timm-kron-flatten": "first.weight (momentum_buffer)"}
"""Those that cannot take all their state along; they say so."""


@pytest.mark.filterwarnings("ignore:Using backward", "ignore:It is highly recommended")
@pytest.mark.parametrize("name", EVERY)
def test_two_steps_a_cut_and_two_more_steps(name: str) -> None:
    width = 10 if "kron" in name else 40  # its products of all dimensions grow with the sixth power
    model, made = network(width), halved(width)
    optimizer = EVERY[name](model)
    train(model, optimizer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", FlowpruneWarning)
        small, new = prune(model, made, optimizer=optimizer)
    before = [p.detach().clone() for group in new.param_groups for p in group["params"]]

    assert type(new) is type(optimizer)
    assert torch.isfinite(torch.tensor(train(small, new)))
    after = [p for group in new.param_groups for p in group["params"]]
    assert {id(p) for p in after} <= {id(p) for p in small.parameters()}
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the small model's parameters move"
    assert torch.isfinite(torch.tensor(train(model, optimizer))), "the dense model trains on"
    lines = [str(warning.message) for warning in said if issubclass(warning.category, FlowpruneWarning)]
    assert [ANEW[name] in line for line in lines] == [True] if name in ANEW else not lines


def test_a_sparse_one_goes_on_with_a_smaller_table() -> None:
    torch.manual_seed(0)
    tokens = torch.tensor([[0, 3, 2], [1, 1, 4]])
    model = nn.Sequential(nn.Embedding(6, 16, sparse=True), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SparseAdam([model[0].weight], lr=0.1)
    for _ in range(2):
        model(tokens).square().mean().backward()
        optimizer.step()
    small, new = prune(model, tokens, importance=L2(), channels=0.5, optimizer=optimizer)
    before = small[0].weight.detach().clone()
    assert new.state[small[0].weight]["exp_avg"].shape == before.shape == (6, 8)
    small(tokens).square().mean().backward()
    new.step()
    assert small[0].weight.isfinite().all() and not torch.equal(before, small[0].weight)


def kept(made: Plan, name: str, dimension: int, size: int) -> Tensor:
    gone = made.removed[name].get(dimension, ())
    return torch.tensor([index for index in range(size) if index not in gone])


@pytest.mark.parametrize(
    ("name", "row", "column", "reduced"),
    [
        ("torch-Adafactor", "row_var", "col_var", {"second.weight": (3, 2), "third.weight": (1, 0)}),
        ("transformers", "exp_avg_sq_row", "exp_avg_sq_col", {"second.weight": (3, 2), "third.weight": (1, 0)}),
        ("timm-adafactor", "exp_avg_sq_row", "exp_avg_sq_col", {"second.weight": (1, 0), "third.weight": (1, 0)}),
        ("timm-adafactorbv", "exp_avg_sq_r", "exp_avg_sq_c", {"second.weight": (1, 0), "third.weight": (0, 1)}),
    ],
)
def test_rows_and_columns_keep_what_their_weights_keep(
    name: str, row: str, column: str, reduced: dict[str, tuple[int, int]], made: Plan
) -> None:
    """The layouts are those of the four implementations' own code: which dimension each accumulator has lost, by its name."""
    model = network()
    optimizer = EVERY[name](model)
    train(model, optimizer)
    small, new = prune(model, made, optimizer=optimizer)
    for weight, lost in reduced.items():
        old, cut = model.get_parameter(weight), small.get_parameter(weight)
        for key, missing in zip((row, column), lost, strict=True):
            expected = optimizer.state[old][key]
            if expected.dim() < old.dim():
                expected = expected.unsqueeze(missing)
            assert expected.shape[missing] == 1
            for dimension in set(range(old.dim())) - {missing}:
                expected = expected.index_select(dimension, kept(made, weight, dimension, old.shape[dimension]))
            found = new.state[cut][key]
            assert (
                torch.equal(found, expected.reshape(found.shape)) and found.numel() < optimizer.state[old][key].numel()
            )


def test_what_the_optimizer_keeps_otherwise_at_the_small_size_starts_anew_and_is_named() -> None:
    """Timm's Adafactor factors from 17 channels on: of 24 12 are left, and their second moments are whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))
    x = torch.randn(3, 4)
    optimizer = of_timm("adafactor")(model)
    model(x).square().mean().backward()
    optimizer.step()
    with pytest.warns(FlowpruneWarning, match=r"state of 2\.weight .* starts anew"):
        small, new = prune(model, x, importance=L2(), channels=0.5, optimizer=optimizer)
    assert small[2].weight not in new.state and new.state[small[0].weight]["exp_avg_sq"].shape == (12, 4)
    small(x).square().mean().backward()
    new.step()
    assert new.state[small[2].weight]["exp_avg_sq"].shape == (12, 12)


def test_what_could_be_rows_or_columns_is_not_guessed() -> None:
    shape, removed = (6, 6, 3), {0: (1,), 1: (2, 3)}
    with pytest.raises(UncutStateError, match="accumulator"):
        cut_state({"accumulator": torch.zeros(6, 3)}, shape, removed)
    alike = {0: (1, 2), 1: (1, 2)}  # either way the same entries leave
    assert cut_state({"accumulator": torch.arange(18.0).view(6, 3)}, shape, alike)["accumulator"][:, 0].tolist() == [
        *(0.0, 9.0, 12.0, 15.0)
    ]
    for odd in (torch.zeros(5), torch.zeros(6, 6, 3, 2), [torch.zeros(6), torch.zeros(4)]):
        with pytest.raises(UncutStateError):
            cut_state({"odd": odd}, shape, removed)


def test_a_wrapped_optimizer_is_wrapped_again(made: Plan) -> None:
    from accelerate import Accelerator

    model = network()
    wrapped = Accelerator(cpu=True).prepare(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    train(model, wrapped)
    held = [p for group in wrapped.param_groups for p in group["params"]]
    small, new = prune(model, made, optimizer=wrapped)
    assert [id(p) for group in wrapped.param_groups for p in group["params"]] == list(map(id, held)), (
        "the old one is whole"
    )
    assert {id(p) for group in new.param_groups for p in group["params"]} == {id(p) for p in small.parameters()}
    before = small.second.weight.detach().clone()
    train(small, new)
    assert not torch.equal(before, small.second.weight)


def test_names_of_parameters_come_along(made: Plan) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=torch.tensor(0.1))
    train(model, optimizer)
    small, new = prune(model, made, optimizer=optimizer)
    (group,) = new.param_groups
    assert dict(zip(group["param_names"], map(id, group["params"]), strict=True)) == {
        name: id(p) for name, p in small.named_parameters()
    }
    group["lr"].fill_(0.0)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1), "a rate that is a tensor is the new one's own"
