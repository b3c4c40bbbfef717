"""What an operator returned once on tensors of some sizes is what it returns again: traces with and without memory are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._ops import OpOverload

import flowprune as fp
from flowprune.engine.tracing import Graph, remembered, trace


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


def result_of(function: OpOverload, args: tuple[Any, ...]) -> Any:
    return remembered.known(remembered.answered_by(function), args, {})


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (2, 6, 5, 5), (1, 6, 2, 2, 2)])
def test_results_known_at_once_are_those_torch_works_out(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, c, last = on_meta(*shape, dtype=dtype), on_meta(6, dtype=dtype), on_meta(shape[-1], dtype=dtype)
    aten = torch.ops.aten
    calls = [
        (aten.native_batch_norm.default, (x, weight, bias, *moments, training, 0.1, 1e-5))
        for weight, bias in ((c, c), (None, None))
        for moments, training in (((c, c), True), ((c, c), False), ((None, None), True))
    ]
    calls += [(aten.native_layer_norm.default, (x, [shape[-1]], last, None, 1e-5))]
    calls += [(aten.native_layer_norm.default, (x, list(shape[1:]), None, None, 1e-5))]
    pointwise = [function for function, kind in remembered._KNOWN.items() if "norm" not in kind]
    calls += [(function, (x,)) for function in pointwise]
    for function, args in calls:
        found, expected = result_of(function, args), function(*args)
        for left, right in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, expected)), strict=True):
            assert (left.shape, left.stride(), left.dtype) == (right.shape, right.stride(), right.dtype), function
            assert (left is x) == (right is x), function


def test_what_does_not_fit_is_left_to_torch() -> None:
    x, c = on_meta(2, 6, 4, 4), on_meta(5)
    aten = torch.ops.aten
    assert result_of(aten.native_batch_norm.default, (x, c, c, c, c, True, 0.1, 1e-5)) is None
    assert result_of(aten.native_batch_norm.default, (x, None, None, None, None, False, 0.1, 1e-5)) is None
    assert result_of(aten.native_layer_norm.default, (x, [5], None, None, 1e-5)) is None
    assert result_of(aten.relu.default, (x.to(memory_format=torch.channels_last),)) is None
    assert result_of(aten.gelu.default, (torch.zeros(2),)) is None
    assert result_of(aten.sigmoid.default, (on_meta(2, dtype=torch.int64),)) is None
