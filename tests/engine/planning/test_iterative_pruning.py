"""Several steps end where one would, counted from the dense model; between them the model is the user's to train."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from silenced_twin import same_state
from small_networks import IMAGE, NETWORKS, SmallNetwork
from torch import nn

import flowprune as fp
import flowprune.models as models
from flowprune.engine.measuring import measure
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import BudgetError
from flowprune.methods.importance import L2, Random
from flowprune.pruning import prune, prune_iteratively

X = torch.zeros(IMAGE)
IMAGES = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("budget", [{"macs": 0.4}, {"params": "100k"}, {"macs": "16M", "scope": "local"}])
def test_counts_fall_step_by_step_to_the_dense_model_s_budget(budget: dict[str, object]) -> None:
    model = models.create("resnet20")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kind = "macs" if "macs" in budget else "params"
    dense, seen = getattr(measure(model, IMAGES), kind), []

    def finetune(small: nn.Module, step: int) -> None:
        seen.append((step, getattr(measure(small, IMAGES), kind)))

    small = fp.prune_iteratively(model, IMAGES, steps=3, finetune=finetune, importance=L2(), **budget)
    asked = {0.4: 0.4 * dense, "100k": 100_000, "16M": 16_000_000}[budget[kind]]  # type: ignore[index]
    assert [step for step, _ in seen] == [1, 2], "the last training is the caller's own"
    for count, share in ((seen[0][1], 1 / 3), (seen[1][1], 2 / 3), (getattr(measure(small, IMAGES), kind), 1)):
        target = dense * (asked / dense) ** share
        assert 0.99 * target <= count <= target
    assert len(lineage_of(small).plans) == 3 and same_state(before, model.state_dict())


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(network=NETWORKS, share=st.floats(0.2, 0.9), steps=st.integers(2, 4), cap=st.sampled_from([0.5, 0.9]))
def test_every_group_keeps_as_many_channels_as_after_one_cut(
    network: SmallNetwork, share: float, steps: int, cap: float
) -> None:
    options = {"importance": Random(), "channels": share, "largest_cut": cap}
    once, often = prune(network, X, **options), prune_iteratively(network, X, steps=steps, **options)
    assert {n: p.shape for n, p in once.named_parameters()} == {n: p.shape for n, p in often.named_parameters()}
    assert torch.isfinite(often(X)).all()


def test_no_layer_loses_more_than_its_share_of_the_dense_one() -> None:
    model = models.create("vgg6", in_channels=3)
    small = prune_iteratively(model, IMAGES, steps=4, importance=Random(), macs=0.55, largest_cut=0.4)
    for name, parameter in small.named_parameters():
        if parameter.dim() == 4:
            assert parameter.shape[0] >= 0.6 * model.get_parameter(name).shape[0]
    assert measure(small, IMAGES).macs <= 0.55 * measure(model, IMAGES).macs


def test_the_criterion_sees_the_model_as_it_was_trained_between() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.Flatten(), nn.Linear(144, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.arange(1, 17).view(16, 1, 1, 1).expand(16, 3, 1, 1))

    def reverse(small: nn.Module, step: int) -> nn.Module:
        with torch.no_grad():
            small[0].weight.copy_(small[0].weight.flip(0))  # type: ignore[index]
        return small

    small = prune_iteratively(network, X, steps=2, finetune=reverse, importance=L2(), channels={"0": 0.25})
    assert small[0].weight[:, 0, 0, 0].tolist() == [16.0, 15.0, 14.0, 13.0]  # type: ignore[index]
    first, second = lineage_of(small).plans
    assert first["removed"]["0.weight"]["0"] == list(range(8)) and second["removed"]["0.weight"]["0"] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0, "macs": 0.5}, "steps=0 is not a number of steps"),
        ({"steps": 2.0, "macs": 0.5}, "steps=2.0 is not a number of steps"),
        ({"steps": 2, "threshold": 0.01}, "threshold=0.01 cannot be met in steps"),
        ({"steps": 2, "macs": 0.001}, "cannot be met"),
        ({"steps": 2}, "none was given"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(options: dict[str, object], complaint: str) -> None:
    def never(small: nn.Module, step: int) -> None:
        raise AssertionError

    with pytest.raises(BudgetError, match=complaint):
        prune_iteratively(models.create("resnet8"), IMAGES, finetune=never, importance=L2(), **options)  # type: ignore[arg-type]
