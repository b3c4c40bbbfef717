"""A weight that is computed from others follows the cut, or stays whole and is named; restored, it is pruned like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from silenced_twin import silenced_twin
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import flowprune as fp

X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def taken_off(module: nn.Module) -> None:
    parametrize.remove_parametrizations(module, "weight")


KINDS: dict[str, tuple[Callable[[nn.Module], object], Callable[[nn.Module], object]]] = {
    "parametrize": (lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()), taken_off),
    "weight_norm": (parametrizations.weight_norm, taken_off),
    "spectral_norm": (parametrizations.spectral_norm, taken_off),
    "weight_norm, old": (old_weight_norm, remove_weight_norm),
    "spectral_norm, old": (old_spectral_norm, remove_spectral_norm),
    "torch's pruning": (
        lambda layer: prune.random_unstructured(layer, "weight", 0.3),
        lambda layer: prune.remove(layer, "weight"),
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::flowprune.FlowpruneWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_pruned_network_is_the_twin_with_the_weight_computed_and_with_it_restored(kind: str) -> None:
    put_on, take_off = KINDS[kind]
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)]
    model = nn.Sequential(*layers).double()
    put_on(model[2])
    model(X)
    model.eval()
    expected = model(X).detach()
    first = fp.plan(model, X, importance=fp.importance.Random(seed=0), channels=0.5)
    found = fp.prune(model, first)(X)  # now: torch takes a parametrization off a class that copies share
    followed = kind in (
        "parametrize",
        "torch's pruning",
    )  # every weight by itself: the engine cuts what it is computed from
    assert first.is_empty != followed
    assert followed or {name.rpartition(".")[0].split(".")[0] for name in first.frozen} >= {"0", "2"}, (
        "what stays is named"
    )
    if not followed:
        assert torch.equal(found, expected)
    take_off(model[2])
    assert torch.allclose(model(X), expected, atol=1e-12)
    made = fp.plan(model, X, importance=fp.importance.Random(seed=0), channels=0.5)
    assert {"0.weight", "2.weight"} <= set(made.removed)
    twin = silenced_twin(model, made)(X)
    assert torch.allclose(fp.prune(model, made)(X), twin, atol=1e-10) and not torch.allclose(twin, expected, atol=1e-6)
    if followed:
        assert first.removed["0.weight"] == made.removed["0.weight"] and torch.allclose(found, twin, atol=1e-10)
