"""Code of the user's own: autograd functions, operators with a rule, several inputs, dataclasses, what is never run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from silenced_twin import largest_difference, randomized, silenced_twin
from torch import Tensor, nn

import flowprune.engine.coupling.rules as rules
from flowprune.engine.coupling import pointwise, rule
from flowprune.errors import ModelError
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Swish(torch.autograd.Function):
    """Forward and backward by hand, as people write them to save memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * (gate + x * gate * (1 - gate))


class ByNumpy(torch.autograd.Function):
    """Leaves torch: nobody sees what becomes of the channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = torch.from_numpy(np.maximum(x.detach().numpy(), 0))
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return gradient * (result > 0)


@torch.library.custom_op("flowprune_tests::squash", mutates_args=())
def squash(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.detach().numpy()))


@squash.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


squash.register_autograd(
    lambda ctx, gradient: gradient * (1 - ctx.saved_tensors[0] ** 2),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),
)


class Network(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.second, self.head = nn.Conv2d(12, 10, 3, padding=1), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def pruned(model: nn.Module, inputs: Any, **options: Any) -> tuple[nn.Module, nn.Module, Any]:
    """The small model and the twin, both in evaluation mode, and the plan."""
    made = plan(model, inputs, importance=L2(), channels=0.5, **options)
    return prune(model, made).eval(), silenced_twin(model, made).eval(), made


def test_an_autograd_function_is_seen_through() -> None:
    model = randomized(Network(Swish.apply)).double()
    small, twin, made = pruned(model, X)
    assert len(made.removed["first.weight"][0]) == 6 and largest_difference(small(X), twin(X)) < 1e-10
    small.train()
    small(X).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Swish.apply, x), "the function is what it was"


def test_what_leaves_torch_keeps_its_channels_and_says_so() -> None:
    model = randomized(Network(ByNumpy.apply)).double()
    _, _, made = pruned(model, X)
    assert "leaves torch by Tensor.numpy" in made.frozen["first.weight"]
    assert "first.weight" not in made.removed and 0 in made.removed["second.weight"]


def test_a_number_read_past_all_operators_may_depend_on_every_channel() -> None:
    """The mean over all channels, taken by numpy, has the same shape in the small model and another value."""

    def scaled(x: Tensor) -> Tensor:
        return x * torch.tensor(np.abs(x.detach().numpy()).mean())

    _, _, made = pruned(randomized(Network(scaled)).double(), X)
    assert "first.weight" not in made.removed and "leaves torch by Tensor.numpy" in made.frozen["first.weight"]


@pytest.mark.parametrize("how", ["definition", "overload", "packet", "name", "dotted name"])
def test_an_operator_of_one_s_own_gets_a_rule(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    model = randomized(Network(lambda x: squash(x))).double()
    _, _, before = pruned(model, X)
    assert "flowprune_tests.squash, which has no coupling rule" in before.frozen["first.weight"]
    named = {
        "definition": squash,
        "overload": torch.ops.flowprune_tests.squash.default,
        "packet": torch.ops.flowprune_tests.squash,
        "name": "flowprune_tests::squash",
        "dotted name": "flowprune_tests.squash",
    }[how]
    rule(named)(pointwise)
    small, twin, made = pruned(model, X)
    assert len(made.removed["first.weight"][0]) == 6 and largest_difference(small(X), twin(X)) < 1e-10
    small.train()(X).sum().backward()
    assert small.first.weight.grad is not None


def test_a_module_may_hold_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    rule(squash)(pointwise)
    model = Network(squash).double()
    small = prune(model, X, importance=L2(), channels=0.5)
    assert small.function is squash and small.first.out_channels == 6


def test_a_rule_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in a few lines: the result carries the channels of the argument."""
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    @rule(squash)
    def squash_rule(operation: Any, state: Any) -> None:
        state.set(operation, state.layout(operation.arguments[0]))

    small, twin, made = pruned(randomized(Network(lambda x: squash(x))).double(), X)
    assert len(made.removed["first.weight"][0]) == 6 and largest_difference(small(X), twin(X)) < 1e-10


def test_what_is_no_operator_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Swish needs no rule"):
        rule(Swish)  # type: ignore[arg-type]
    for wrong in ("squash", "", 3, torch.relu):
        with pytest.raises(ModelError, match="is no operator"):
            rule(wrong)  # type: ignore[arg-type]


@dataclass
class Found:
    logits: Tensor
    features: dict[str, Tensor]


class ManyInputs(nn.Module):
    """Two inputs, a flag, a keyword, and a dataclass that holds a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(1, 12, 3, padding=1)
        self.body, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 4)

    def forward(self, image: Tensor, depth: Tensor, *, scale: float = 1.0, mask: Tensor | None = None) -> Found:
        x = torch.relu(self.image(image) + scale * self.depth(depth))
        if mask is not None:
            x = x * mask
        x = torch.relu(self.body(x))
        return Found(self.head(x.mean((2, 3))), {"pooled": x.mean(1), "largest": x.amax((1, 2, 3))})


def test_several_inputs_keywords_and_a_dataclass_of_a_dictionary() -> None:
    model = randomized(ManyInputs()).double()
    depth, mask = X[:, :1].clone(), (X[:, :1] > 0).double()
    small, twin, made = pruned(model, {"image": X, "depth": depth, "scale": 0.5, "mask": mask})
    assert made.removed["image.weight"][0] == made.removed["depth.weight"][0] == made.removed["body.weight"][1]
    assert "body.weight" in made.frozen and "head.weight" in made.frozen, "outputs keep what they are made of"
    expected, found = (net(X, depth, scale=0.5, mask=mask) for net in (twin, small))
    assert largest_difference(found.logits, expected.logits) < 1e-10
    assert largest_difference(found.features["pooled"], expected.features["pooled"]) < 1e-10
    by_position, _, again = pruned(model, (X, depth))
    assert again.removed == made.removed and isinstance(by_position(X, depth), Found)


class HalfUsed(nn.Module):
    """A module that no forward runs, and a parameter that none reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.retired = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        self.forgotten = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_what_is_never_run_stays_and_is_named() -> None:
    small, twin, made = pruned(HalfUsed().double(), X)
    for name in ("retired.0.weight", "retired.1.weight", "forgotten"):
        assert made.frozen[name] == "not used in the traced passes", name
        assert name not in made.removed
    assert len(made.removed["first.weight"][0]) == 4 and largest_difference(small(X), twin(X)) < 1e-10
    assert "frozen: forgotten: not used in the traced passes" in str(made)


def test_a_model_without_gradients_is_cut_the_same() -> None:
    model = randomized(Network(torch.relu)).double()
    trainable = plan(model, X, importance=L2(), macs=0.5)
    model.requires_grad_(False)
    frozen = plan(model, X, importance=L2(), macs=0.5)
    assert frozen == trainable
    small = prune(model, frozen)
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_equal_scores_are_broken_alike_whatever_the_budget() -> None:
    class Indifferent:
        def __call__(self, model: nn.Module, inputs: Any, groups: Any) -> list[Tensor]:
            return [torch.ones(group.channels, dtype=torch.float64) for group in groups]

    model = Network(torch.relu).double()
    for budget in (
        {"macs": 0.6},
        {"params": 0.5, "scope": "local"},
        {"channels": 0.5},
        {"channels": 0.5, "round_to": 4},
    ):
        first, second = (plan(model, X, importance=Indifferent(), **budget) for _ in range(2))
        assert first == second and not first.is_empty
        gone = first.removed["first.weight"][0] if "first.weight" in first.removed else ()
        assert gone == tuple(range(len(gone))), "of equal channels the first leave"
