"""What an operator returned once on tensors of some sizes is what it returns again: traces with and without memory are the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.tracing import Graph, remembered, trace


def described(graph: Graph) -> list[object]:
    operations = [
        (str(o.function), repr(o.arguments), repr(o.keywords), o.outputs, o.module, o.integers, o.python)
        for o in graph.operations
    ]
    return [operations, graph.values, graph.inputs, graph.outputs, graph.parameters, graph.calls, graph.tensors]


class Written(nn.Module):
    """In-place operators of every kind: on the tensor itself, on a view of it, with a change of type beside it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone().relu_().add_(1).mul_(2.0)
        y[:, :2] += 1
        whole = (x * 2).long()
        mixed = whole + 1
        halves = whole + 1.0
        turned = x.clone().squeeze_().unsqueeze_(0)
        values, places = y.max(dim=1)
        return y, mixed, halves, whole + True, turned, values, places, *x.split(1, dim=1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        Written,
        lambda: fp.models.create("resnet20"),
        lambda: fp.models.create("torchvision:mobilenet_v2"),
        lambda: fp.models.create("torchvision:swin_t"),
        lambda: fp.models.create("timm:test_vit"),
        lambda: fp.models.create("timm:test_efficientnet"),
    ],
)
def test_a_trace_is_the_same_with_and_without_memory(
    build: Callable[[], nn.Module], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build()
    images = torch.zeros(2, 3, 64, 64)
    monkeypatch.setattr(remembered, "_outcomes", {})
    with monkeypatch.context() as patch:
        patch.setattr(remembered, "call", lambda function, args, kwargs: function(*args, **kwargs))
        plain = described(trace(model, images, training=training))
    cold = described(trace(model, images, training=training))
    assert remembered._outcomes
    assert cold == plain
    assert described(trace(model, images, training=training)) == plain


def test_numbers_of_other_types_are_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_outcomes", {})
    whole = torch.zeros(3, dtype=torch.int64, device="meta")
    add = torch.ops.aten.add.Tensor
    assert [remembered.call(add, (whole, number), {}).dtype for number in (1, 1.0, True, 1)] == [
        torch.int64,
        torch.float32,
        torch.int64,
        torch.int64,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_default_dtype", lambda: torch.float64)
        assert len(remembered._outcomes) == 3
        remembered.call(add, (whole, 1.0), {})
        assert len(remembered._outcomes) == 4


def test_a_call_that_raises_raises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_outcomes", {})
    left, right = torch.zeros(3, device="meta"), torch.zeros(4, device="meta")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            remembered.call(torch.ops.aten.add.Tensor, (left, right), {})
