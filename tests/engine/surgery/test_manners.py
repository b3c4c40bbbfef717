"""What planning and pruning leave alone, and how they refuse."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from silenced_twin import randomized, same_state
from torch import nn
from torture_networks import IMAGE, TORTURE

import flowprune.models as models
from flowprune.engine.allocation import Plan, budget_from
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import ArtifactError, BudgetError, ModelError, TraceError
from flowprune.methods.importance import L2, NuclearNorm
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.pruning import plan, prune

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_source_is_left_exactly_as_it_was() -> None:
    model = randomized(models.create("resnet20"))
    model.train()
    model.layer1[0].eval()
    model.conv1.weight.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    hooks = list(model._forward_hooks)
    model(IMAGES).sum().backward()
    state, gradients = (
        copy.deepcopy(model.state_dict()),
        {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
    )
    modes = [module.training for module in model.modules()]
    torch.manual_seed(7)
    random_state = torch.get_rng_state()

    small = prune(model, IMAGES, importance=NuclearNorm([IMAGES]), macs=0.5)

    assert torch.equal(random_state, torch.get_rng_state())
    assert same_state(state, model.state_dict())
    assert modes == [module.training for module in model.modules()]
    assert list(model._forward_hooks) == hooks and not any(module._forward_hooks for module in model.children())
    assert all(
        p.grad is None if gradients[n] is None else torch.equal(p.grad, gradients[n])
        for n, p in model.named_parameters()
    )
    assert [module.training for module in small.modules()] == modes
    assert not small.conv1.weight.requires_grad and small.linear.weight.requires_grad
    own = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in small.parameters()}
    assert not own, "the small model has tensors of its own"


def test_the_small_model_is_plain() -> None:
    model = models.create("resnet20")
    flow = FeatureFlow(model, gradient=0.1, inputs=IMAGES)
    small = prune(model, IMAGES, importance=L2(), macs=0.5)
    assert type(small) is type(model)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in small.modules())
    assert [type(m) for m in small.modules()] == [type(m) for m in model.modules()]
    torch.jit.trace(small.eval(), IMAGES)
    torch.export.export(small.eval(), (IMAGES,))
    flow.close()


def test_pruning_twice_keeps_the_whole_history() -> None:
    model = models.create("resnet20")
    once = prune(model, IMAGES, importance=L2(), macs=0.7)
    twice = prune(once, IMAGES, importance=L2(), macs=0.7)
    assert lineage_of(twice).builder == "resnet20" and len(lineage_of(twice).plans) == 2
    assert lineage_of(model).plans == ()


def test_plans_survive_json() -> None:
    made = plan(randomized(models.create("resnet20")), IMAGES, importance=L2(), macs=0.5)
    again = Plan.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made and str(again) == str(made)
    with pytest.raises(ArtifactError, match="not a plan"):
        Plan.from_dict({"format": 1, "removed": {}})


def test_equal_scores_are_cut_the_same_way_every_time() -> None:
    class Indifferent:
        def __call__(self, model: nn.Module, inputs: object, groups: list) -> list[torch.Tensor]:
            return [torch.zeros(group.channels) for group in groups]

    model = models.create("vgg6", in_channels=3)
    first, second = (plan(model, IMAGES, importance=Indifferent(), macs=0.5) for _ in range(2))
    assert first == second and not first.is_empty


def test_ignored_layers_keep_all_their_dimensions() -> None:
    model = models.create("resnet20")
    for ignore in (["layer2.*"], ["layer2"], [model.layer2]):
        made = plan(model, IMAGES, importance=L2(), channels=0.5, ignore=ignore)
        assert not any(name.startswith("layer2") for name in made.removed)
        assert made.removed["layer3.1.conv1.weight"][0]
        assert any("ignored" in reason for reason in made.frozen.values())
    with pytest.raises(ModelError, match="matches no parameter"):
        plan(model, IMAGES, importance=L2(), channels=0.5, ignore=["layer9"])


def test_an_option_a_shortcut_keeps_its_channels_in_step() -> None:
    """Channel c of one stage is channel c + k of the next; k itself shrinks, and the module's integers with it."""
    model = randomized(models.create("resnet20"))
    made = plan(model, IMAGES, importance=L2(), macs=0.4)
    small = prune(model, made)
    shortcut = small.layer2[0].shortcut
    gone = made.removed["layer2.0.conv2.weight"][0]
    assert shortcut.channels_before == 8 - sum(i < 8 for i in gone)
    assert shortcut.channels_after == 8 - sum(i >= 24 for i in gone)
    assert {i - 8 for i in gone if 8 <= i < 24} == set(made.removed["conv1.weight"][0])
    assert {(c.name, c.after) for c in made.attributes if c.module == "layer2.0.shortcut"} <= {
        ("channels_before", shortcut.channels_before),
        ("channels_after", shortcut.channels_after),
    }


def test_a_channel_axis_written_into_the_code_is_named() -> None:
    made = plan(TORTURE["view with a written number"](), torch.randn(1, *IMAGE), importance=L2(), channels=0.5)
    assert "number written in the code" in made.frozen["features.2.0.weight"]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "none was given"),
        ({"macs": 0.5, "params": 0.5}, "2 were given"),
        ({"macs": 1.5}, "is not a budget"),
        ({"macs": 0}, "is not a budget"),
        ({"params": "lots"}, "is not a budget"),
        ({"channels": "3M"}, "is not a budget"),
        ({"macs": 0.5, "scope": "galactic"}, "galactic"),
    ],
)
def test_malformed_budgets_are_refused(asked: dict[str, object], complaint: str) -> None:
    with pytest.raises(BudgetError, match=complaint):
        budget_from(**asked)  # type: ignore[arg-type]


def test_absolute_budgets_have_units() -> None:
    model = models.create("resnet20")
    made = plan(model, IMAGES, importance=L2(), macs="20M")
    assert 0.995 * 20_000_000 <= made.macs[1] <= 20_000_000
    assert plan(model, IMAGES, importance=L2(), params="100k").params[1] <= 100_000


def test_impossible_and_incomplete_requests_say_what_to_do() -> None:
    model = models.create("resnet20")
    with pytest.raises(BudgetError, match="smallest model the constraints allow"):
        plan(model, IMAGES, importance=L2(), macs=0.0001)
    with pytest.raises(BudgetError, match="needs importance="):
        plan(model, IMAGES, macs=0.5)
    with pytest.raises(BudgetError, match="a plan already says"):
        prune(model, plan(model, IMAGES, importance=L2(), macs=0.5), macs=0.5)
    with pytest.raises(TraceError, match="RuntimeError"):
        plan(model, torch.randn(1, 1, 32, 32), importance=L2(), macs=0.5)
    with pytest.raises(TraceError, match="no tensor"):
        plan(model, "images", importance=L2(), macs=0.5)


def test_a_model_that_is_nan_is_refused_by_name() -> None:
    model = models.create("resnet20")
    with torch.no_grad():
        model.layer2[1].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"layer2\.1\.conv1\.weight holds NaN"):
        plan(model, IMAGES, importance=L2(), macs=0.5)


def test_wrappers_are_told_how_to_unwrap() -> None:
    model = models.create("resnet8")
    with pytest.raises(ModelError, match=r"model\._orig_mod"):
        plan(torch.compile(model), IMAGES, importance=L2(), macs=0.5)
    with pytest.raises(ModelError, match=r"model\.module"):
        plan(nn.DataParallel(model), IMAGES, importance=L2(), macs=0.5)


def test_a_plan_for_another_architecture_is_refused() -> None:
    made = plan(models.create("resnet32"), IMAGES, importance=L2(), macs=0.5)
    with pytest.raises(ModelError, match="another architecture"):
        prune(models.create("resnet20"), made)
    small = prune(models.create("resnet32"), made)
    with pytest.raises(ModelError, match="already carried out"):
        prune(small, made)


def test_a_model_without_anything_to_prune_says_so() -> None:
    with pytest.raises(ModelError, match="no parameters"):
        plan(nn.ReLU(), torch.randn(1, 3), importance=L2(), channels=0.5)
    alone = plan(nn.Linear(3, 4), torch.randn(1, 3), importance=L2(), channels=0.5)
    assert alone.is_empty and "output of the model" in alone.frozen["weight"]
    with pytest.raises(BudgetError, match="cannot be met"):
        plan(nn.Linear(3, 4), torch.randn(1, 3), importance=L2(), macs=0.5)


def test_a_reparametrised_weight_stays_and_is_named() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 8)), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4)
    )
    made = plan(model, torch.randn(1, 3), importance=L2(), channels=0.5)
    assert "no coupling rule" in made.frozen["0.parametrizations.weight.original1"]
    assert set(made.removed) == {"2.weight", "2.bias", "3.weight"}
