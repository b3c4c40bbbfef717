"""Models that have no numbers yet: lazy modules before their first input, and modules on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flowprune.artifacts import load, save
from flowprune.engine.measuring import measure
from flowprune.errors import ModelError
from flowprune.explanation import explain
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LAZY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolution": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), "0 is a LazyConv2d"),
    "last": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4)), "2 is a LazyLinear"),
    "norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.LazyBatchNorm2d(affine=False)), nn.Conv2d(8, 4, 3)),
        "1.0 is a LazyBatchNorm2d",
    ),
}


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_module_that_has_not_run_is_named(name: str, tmp_path: Path) -> None:
    build, said = LAZY[name]
    model = build()
    save(plain(), tmp_path / "other.fp")
    attempts: list[Callable[[], Any]] = [
        lambda: plan(model, X, importance=L2(), channels=0.5),
        lambda: prune(model, X, importance=L2(), channels=0.5),
        lambda: plan(model, X, threshold=0.01),
        lambda: prune(model, plan(plain(), X, importance=L2(), channels=0.5)),
        lambda: explain(model, X),
        lambda: measure(model, X),
        lambda: save(model, tmp_path / "lazy.fp"),
        lambda: load(tmp_path / "other.fp", model=model),
    ]
    for attempt in attempts:
        with pytest.raises(Exception, match=rf"{said} whose sizes are not known .* run the model on one") as caught:
            attempt()
        assert isinstance(caught.value, ModelError) or attempt is attempts[-1]
        assert "\n" not in str(caught.value)
    model(X)
    assert prune(model, X, importance=L2(), channels=0.5)(X).shape == model(X).shape


@pytest.mark.parametrize("place", ["", "1"])
def test_a_model_on_the_meta_device_is_refused_where_its_numbers_are_needed(place: str) -> None:
    model = plain()
    made = plan(model, X, importance=L2(), channels=0.5)
    model.get_submodule(place).to("meta")
    for attempt in (
        lambda: plan(model, X, importance=L2(), channels=0.5),
        lambda: plan(model, X, threshold=0.01),
        lambda: prune(model, X, importance=L2(), macs=0.5),
        lambda: prune(model, made),
    ):
        with pytest.raises(ModelError, match=r"weight is on the meta device .* load its weights") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_what_needs_no_numbers_works_on_the_meta_device() -> None:
    real = plain()
    with torch.device("meta"):
        without = plain()
    assert str(explain(without, X)) == str(explain(real, X))
    found, expected = measure(without, X), measure(real, X)
    assert (found.macs, found.params) == (expected.macs, expected.params)
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert (one.layer, one.macs, one.params, one.output) == (other.layer, other.macs, other.params, other.output)
    assert found.nonzero == found.params  # no zero shows where there are no numbers
