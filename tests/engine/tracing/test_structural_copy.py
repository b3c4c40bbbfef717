"""A structural copy is what ``copy.deepcopy`` would have made, but for the tensors."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowprune.engine.tracing.structural_copy import structural_copy
from flowprune.models import create


def same(tensor: Tensor) -> Tensor:
    return tensor


class Holder:
    """An object of the user's own, with a tensor and a module in it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


class WithState(nn.Module):
    """A class that says what of it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.lock = "not to be copied"

    def __getstate__(self) -> dict[str, Any]:
        return {name: held for name, held in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = f"new, over {len(list(self.inner.parameters()))} parameters"


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.cache = torch.zeros(4)
        self.caches = {"a": [torch.zeros(5), (self.cache, 3)]}
        self.sizes = [1, [2, 3]]
        self.names = ("a", "b")
        self.own_way = WithState()
        self.holder = Holder(self.own_way)
        self.step = self.first.forward
        self.act = functools.partial(nn.functional.leaky_relu, negative_slope=0.1)
        self.shared = self.sizes
        self.nothing = None
        self.parent = [self]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.step(x))
        return result


def test_what_is_shared_stays_shared_and_nothing_else_is_the_originals() -> None:
    model = Everything()
    seen: list[int] = []

    def stand_in(tensor: Tensor) -> Tensor:
        seen.append(id(tensor))
        made = tensor.detach().clone()
        return nn.Parameter(made) if isinstance(tensor, nn.Parameter) else made

    copied = structural_copy(model, stand_in)
    assert isinstance(copied, Everything) and len(seen) == len(set(seen)), "every tensor is replaced once"
    assert copied.again is copied.first and copied.tied.weight is copied.first.weight
    assert copied.cache is copied.caches["a"][1][0] and copied.cache is not model.cache
    assert copied.sizes == [1, [2, 3]] and copied.shared is copied.sizes
    assert copied.sizes is not model.sizes and copied.sizes[1] is not model.sizes[1]
    assert copied.holder.module is copied.own_way and copied.own_way is not model.own_way
    assert copied.own_way.lock == "new, over 4 parameters"
    assert copied.step.__self__ is copied.first and copied.parent[0] is copied
    assert "scratch" in copied._non_persistent_buffers_set and "scratch" not in copied.state_dict()
    originals = {id(tensor) for tensor in (*model.parameters(), *model.buffers(), model.cache)}
    assert not originals & {id(tensor) for tensor in (*copied.parameters(), *copied.buffers(), copied.cache)}
    x = torch.randn(2, 3)
    assert torch.equal(copied(x), model(x))


@pytest.mark.parametrize("make", [lambda: create("resnet20"), Everything], ids=["resnet20", "everything"])
def test_it_holds_what_a_deep_copy_holds(make: Any) -> None:
    model = make()
    expected, found = copy.deepcopy(model), structural_copy(model, same)
    for (path, one), (other_path, other) in zip(expected.named_modules(), found.named_modules(), strict=True):
        assert path == other_path and type(one) is type(other)
        assert list(one.__dict__) == list(other.__dict__)
        assert {n: type(h) for n, h in one.__dict__.items()} == {n: type(h) for n, h in other.__dict__.items()}
    assert all(
        torch.equal(a, b) for a, b in zip(expected.state_dict().values(), found.state_dict().values(), strict=True)
    )


def test_hooks_come_along_but_for_those_of_training() -> None:
    model = nn.Sequential(nn.Linear(3, 3))

    def doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * 2

    def noted(module: nn.Module, inputs: Any, output: Tensor) -> None:
        raise AssertionError("only for training")

    noted.flowprune_transient = True  # type: ignore[attr-defined]
    model[0].register_forward_hook(noted, always_call=True)
    model[0].register_forward_hook(doubled)
    copied = structural_copy(model, same)
    assert list(copied[0]._forward_hooks.values()) == [doubled] and not copied[0]._forward_hooks_always_called
    assert len(model[0]._forward_hooks) == 2
    x = torch.randn(1, 3)
    assert torch.equal(copied(x), 2 * torch.nn.functional.linear(x, model[0].weight, model[0].bias))


def test_a_compiled_call_stays_with_the_model_that_was_compiled() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model.compile(backend="eager")
    assert structural_copy(model, same)._compiled_call_impl is None
