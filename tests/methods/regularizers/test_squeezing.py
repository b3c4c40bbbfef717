"""Projections learn the features of full precision, lose columns to a proximal step, and what leaves meets a share of the MACs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks.kinds_of_layers import network
from torch import Tensor, nn

import flowprune as fp
from flowprune.errors import ArtifactError, FlowpruneError, ModelError, RecipeError
from flowprune.methods.regularizers.squeezing import LEAST, Squeezing

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def precise() -> nn.Module:
    """A network whose batch norms have seen images."""
    model = network("depthwise").train()
    for _ in range(20):
        model(X)
    return model.eval()


@pytest.fixture
def wide(precise: nn.Module) -> nn.Module:
    return fp.replace(precise, X[:1], replacement="widened_convolution", bits=3)


def heard(model: nn.Module) -> dict[str, Tensor]:
    """What the layers that are widened say of the images, in evaluation mode."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: found.update({name: call[2]}))
        for name in ("plain", "pointwise")
    ]
    with torch.no_grad():
        model.eval()(X)
    for hook in hooks:
        hook.remove()
    return found


def test_the_penalty_is_how_far_features_are_from_those_of_full_precision(precise: nn.Module, wide: nn.Module) -> None:
    theirs, mine = heard(precise), heard(wide)
    wanted = [float((theirs[n] - mine[n]).square().sum() / theirs[n].square().sum()) for n in theirs]
    squeezing = Squeezing(wide, features=2.0)
    wide.eval()(X)
    found = squeezing.penalty(batch=(X, torch.zeros(8)))
    assert float(found) == pytest.approx(2 * sum(wanted) / 2, rel=1e-5) and float(found) > 0
    found.backward()
    assert wide.get_submodule("plain.wide").weight.grad.abs().max() > 0  # type: ignore[union-attr]
    squeezing.close()
    assert not any(module._forward_hooks for module in wide.modules())


def test_the_proximal_step_solves_the_group_lasso_and_zeros_stay_until_they_are_enough(wide: nn.Module) -> None:
    squeezing = Squeezing(wide, strength=2.0)
    layer: Any = wide.get_submodule("plain")
    weight, reach = layer.projection.weight, layer.grid.reach.flatten().double()
    with torch.no_grad():
        weight[:, 3] *= 0.01
    before = weight.detach()[:, :, 0, 0].double() * reach  # columns, in units of what they can say
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    squeezing.begin(fp.Training(optimizer, epochs=2, steps=2))
    squeezing.after_step(optimizer, lambda: torch.zeros(()))
    after = weight.detach()[:, :, 0, 0].double() * reach
    size = 2.0 / 4 * before.norm(dim=0).square().mean().sqrt()  # a quarter of the way in each of four steps
    spared = torch.zeros(32, dtype=torch.bool).index_fill_(0, before.norm(dim=0).topk(LEAST).indices, True)
    gone = (before.norm(dim=0) <= size) & ~spared
    assert gone[3] and not gone.all() and not after[:, gone].any() and torch.equal(after[:, spared], before[:, spared])
    kept = after[:, ~gone & ~spared]  # where the gradient of 1/2 |P' - P|^2 + size |P'| is zero
    slope = kept - before[:, ~gone & ~spared] + size * kept / kept.norm(dim=0)
    torch.testing.assert_close(slope, torch.zeros_like(kept), rtol=0, atol=1e-6)
    with torch.no_grad():
        weight += 10.0
    squeezing.after_step(optimizer, lambda: torch.zeros(()))
    outcome = squeezing.finish()
    assert outcome.leaves is None and outcome.scores is not None
    assert torch.equal(outcome.scores["plain.scale.weight"] == 0, gone)
    assert squeezing.epoch_end()["zero_columns"] >= float(gone.sum()) / 64
    again = Squeezing(fp.replace(network("depthwise"), X[:1], replacement="widened_convolution", bits=3))
    again.load_state_dict(squeezing.state_dict())
    assert torch.equal(again._gone["plain"], gone)
    squeezing.close()


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_what_leaves_meets_the_share_of_the_macs_of_full_precision(
    precise: nn.Module, wide: nn.Module, share: float
) -> None:
    squeezing = Squeezing(wide, inputs=X[:1], macs=share, strength=1e6)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    if share == 0.6:
        squeezing.begin(fp.Training(optimizer))
        squeezing.after_step(optimizer, lambda: torch.zeros(()))  # all but two of each layer: more than enough
        layer: Any = wide.get_submodule("plain")
        assert int((layer.lengths() > 0).sum()) == LEAST
        before = layer.projection.weight.detach().clone()
        squeezing.after_step(optimizer, lambda: torch.zeros(()))
        assert torch.equal(layer.projection.weight, before)
    outcome = squeezing.finish()
    squeezing.close()
    small = fp.prune(wide, fp.plan(wide, X[:1], outcome=outcome)).eval()
    whole, left = fp.measure(precise, X[:1]).macs, fp.measure(small, X[:1]).macs
    one = max(squeezing._costs.values())
    assert left <= share * whole and (share == 0.6 or left > share * whole - one)
    assert outcome.leaves is not None
    with torch.no_grad():
        for name, gone in outcome.leaves.items():
            wide.get_submodule(name.removesuffix(".scale.weight")).projection.weight[:, gone] = 0  # type: ignore[union-attr, operator]
    torch.testing.assert_close(small(X), wide.eval()(X), rtol=0, atol=1e-5)


def test_refused_in_one_line(precise: nn.Module, wide: nn.Module) -> None:
    trained = fp.replace(precise, X[:1], replacement="widened_convolution")
    with torch.no_grad():
        trained.get_submodule("plain.projection").weight += 0.1
    for make, kind, said in (
        (lambda: Squeezing(precise), ModelError, "widened_convolution before"),
        (lambda: Squeezing(trained), ModelError, "plain: it was trained or cut .* before the first step"),
        (lambda: Squeezing(wide, macs=0.5), RecipeError, "inputs="),
        (lambda: Squeezing(wide, inputs=X[:1], macs=0.01), RecipeError, f"with {LEAST} wide features a layer 0"),
        (lambda: Squeezing(wide, strength=-1.0), RecipeError, "strength"),
        (lambda: Squeezing(wide).penalty(), FlowpruneError, "batch="),
        (lambda: Squeezing(wide).load_state_dict({"precise": {}}), ArtifactError, "not that of squeezing"),
    ):
        with pytest.raises(kind, match=said) as raised:
            make()  # type: ignore[no-untyped-call]
        assert "\n" not in str(raised.value)


def test_the_network_of_full_precision_comes_back_with_the_state(precise: nn.Module, wide: nn.Module) -> None:
    first = Squeezing(wide)
    state = first.state_dict()
    first.close()
    with torch.no_grad():
        wide.get_submodule("norm_of_plain").bias += 1.0
    second = Squeezing(wide)
    second.load_state_dict(state)
    second.close()
    torch.testing.assert_close(second._precise(X), precise(X), rtol=0, atol=1e-6)
