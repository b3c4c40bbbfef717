"""Pruned networks of the literature equal their silenced twins, whatever the criterion and the budget."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from thoroughness import times

import flowprune.models as models
from flowprune.engine.measuring import measure
from flowprune.methods import importance
from flowprune.pruning import plan, prune

CRITERIA = {
    "l1": lambda images: importance.L1(),
    "l2": lambda images: importance.L2(),
    "batch_norm_gamma": lambda images: importance.BatchNormGamma(),
    "filter_scale": lambda images: importance.FilterScale(),
    "nuclear_norm_stacked": lambda images: importance.NuclearNorm([images]),
    "nuclear_norm_mean": lambda images: importance.NuclearNorm([images], reading="mean"),
    "random": lambda images: importance.Random(seed=int(images.sum().abs())),
}
NETWORKS = ["resnet20", "resnet32", "resnet56", "vgg16"]


@pytest.mark.parametrize("family", ["resnet-a", "resnet-b", "vgg"])
def test_pruned_networks_equal_their_silenced_twins(family: str) -> None:
    names = {"resnet-a": ["resnet20", "resnet8"], "resnet-b": ["resnet20", "resnet32"], "vgg": ["vgg16", "vgg6"]}[
        family
    ]

    examples = times(quick=8 if family == "vgg" else 15, thorough=70)

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(
        name=st.sampled_from(names),
        criterion=st.sampled_from(sorted(CRITERIA)),
        kind=st.sampled_from(["macs", "params", "channels", "threshold"]),
        share=st.floats(0.15, 0.8),
        scope=st.sampled_from(["global", "local"]),
        seed=st.integers(0, 2**20),
    )
    def check(name: str, criterion: str, kind: str, share: float, scope: str, seed: int) -> None:
        torch.manual_seed(seed)
        model = randomized(models.create(name), seed, dead=0.4 if kind == "threshold" else 0.0).double().eval()
        images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
        state = copy.deepcopy(model.state_dict())
        if kind == "threshold":
            made = plan(model, images[:1], threshold=0.01)
        else:
            budget = {kind: share, "scope": scope} if kind != "channels" else {kind: share}
            made = plan(model, images[:1], importance=CRITERIA[criterion](images), **budget)
        small = prune(model, made)
        assert same_state(state, model.state_dict())

        twin = silenced_twin(model, made)
        with torch.no_grad():
            dense_output, twin_output, output = model(images), twin(images), small(images)
        assert largest_difference(output, twin_output) < 1e-10
        assert min(made.macs[1] / made.macs[0], made.params[1] / made.params[0]) <= 0.9
        if kind != "threshold":  # what is dead and silent leaves without a trace
            assert largest_difference(dense_output, twin_output) > 1e-6
        else:
            assert largest_difference(dense_output, output) < 1e-10
        counted = measure(small, images[:1])
        assert (counted.macs, counted.params) == (made.macs[1], made.params[1])
        if kind in ("macs", "params"):
            assert getattr(made, kind)[1] <= share * getattr(made, kind)[0]

        single, twin = small.float(), twin.float()
        with torch.no_grad():
            output, twin_output = single(images.float()), twin(images.float())
        assert largest_difference(output, twin_output) <= 1e-4 * float(twin_output.abs().max())

    check()


@pytest.mark.parametrize("name", NETWORKS)
def test_budgets_on_counts_end_close_below_the_target(name: str) -> None:
    model = randomized(models.create(name)).eval()
    images = torch.randn(1, 3, 32, 32)
    for kind in ("macs", "params"):
        for scope in ("global", "local"):
            for share in (0.3, 0.5, 0.77):
                made = plan(model, images, importance=importance.L2(), scope=scope, **{kind: share})
                before, after = getattr(made, kind)
                assert share * 0.995 * before <= after <= share * before, (kind, scope, share, after / before)


def test_the_small_model_trains_as_the_twin_does() -> None:
    """One step of training mode: batch statistics, gradients of the kept slices."""
    torch.manual_seed(0)
    model = randomized(models.create("resnet20")).double()
    images, targets = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.randint(10, (8,))
    made = plan(model, images[:1], importance=importance.L2(), macs=0.5)
    small, twin = prune(model, made).train(), silenced_twin(model, made).train()
    for network in (small, twin):
        torch.nn.functional.cross_entropy(network(images), targets).backward()
    kept = [c for c in range(16) if c not in made.removed["conv1.weight"].get(0, ())]
    assert torch.allclose(small.conv1.weight.grad, twin.conv1.weight.grad[kept], atol=1e-10)
    assert torch.allclose(small.linear.bias.grad, twin.linear.bias.grad, atol=1e-10)
