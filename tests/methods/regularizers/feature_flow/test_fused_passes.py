"""The penalty's passes as fused loops: the same penalty and gradients, and one line where nothing can be compiled."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError, RecipeError
from flowprune.methods.regularizers.feature_flow.penalty import fused_passes


def _penalty_and_gradients(curvature: float | None, layout: torch.memory_format, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = fp.models.create("resnet8", width=4).to(memory_format=layout)
    flow = fp.FeatureFlow(model, 0.1, curvature, points="layers", **options)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    loss = model(images).square().mean()
    penalty = flow.penalty()
    (loss + penalty).backward()
    return [penalty.detach(), *(each.grad for each in model.parameters() if each.grad is not None)]


def _same(curvature: float | None, layout: torch.memory_format) -> None:
    fused = _penalty_and_gradients(curvature, layout, compiled=True)
    eager = _penalty_and_gradients(curvature, layout)
    assert len(fused) == len(eager) > 10
    for one, other in zip(fused, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("curvature", [None, 0.05])
def test_one_loop_says_what_many_passes_say(
    monkeypatch: pytest.MonkeyPatch, curvature: float | None, layout: torch.memory_format
) -> None:
    asked: list[str] = []

    def uncompiled(function: Any) -> Any:
        asked.append(function.__name__)
        return function

    monkeypatch.setattr(fused_passes, "_compiled", uncompiled)
    _same(curvature, layout)
    assert {"sizes", "pass_on"} <= set(asked)


@pytest.mark.skipif(
    "FLOWPRUNE_THOROUGH" not in os.environ, reason="compiles for half a minute; set FLOWPRUNE_THOROUGH=1"
)
def test_as_it_is_compiled() -> None:
    _same(0.05, torch.contiguous_format)


def test_where_nothing_can_be_compiled_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    def failing(function: Any) -> Any:
        raise InvalidCxxCompiler

    monkeypatch.setattr(fused_passes, "_compiled", failing)
    with pytest.raises(
        FlowpruneError, match=r"compiled=True: torch.compile cannot .* install a C\+\+ compiler"
    ) as said:
        _penalty_and_gradients(0.05, torch.contiguous_format, compiled=True)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("options", [{"norm": 2}, {"norm": "group", "reduction": "channel"}, {"size": "relative"}])
def test_what_autograd_does_is_not_fused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match='compiled=True is for norm=1 and size="absolute"'):
        fp.FeatureFlow(nn.Sequential(nn.Conv2d(3, 4, 1)), 0.1, compiled=True, **options)
