"""Branch removal in steps, from the command line, in a recipe, and in torchvision's networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from branch_networks import branch_twin, images, kill, network
from silenced_twin import largest_difference, randomized
from torch import nn
from typer.testing import CliRunner

import flowprune as fp
from flowprune.cli import app
from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed
from flowprune.engine.steps.lineage import lineage_of
from flowprune.engine.tracing import filter_layers
from flowprune.errors import BudgetError, ModelError
from flowprune.explanation import explain
from flowprune.pruning import prune_iteratively
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import Recipe
from flowprune.studies.sections import PruningSection


def test_in_steps_the_last_one_takes_the_branches() -> None:
    model = network("pad")
    kill(model.blocks[0].bn2, [0, 1, 3, 4, 5, 7], 0.3)
    kill(model.blocks[1].bn2, range(8), 0.3)
    kill(model.blocks[3].bn2, range(16), -0.3)
    x = images()
    small = prune_iteratively(model, x[:1], steps=2, macs=0.4, importance=fp.importance.L2(), branches="always").eval()
    first, last = [Plan.from_dict(plan) for plan in lineage_of(small).plans]
    assert not first.branches and {b.kind for b in last.branches} == {"opened", "constant", "ended", "reading"}
    whole = composed([first, last], "macs=0.4")
    assert whole.macs == (fp.measure(model, x[:1]).macs, fp.measure(small, x[:1]).macs)
    again = fp.prune(model, whole)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}
    for index in ("blocks.0.bn2.places", "blocks.4.conv1.reads"):
        assert again.get_buffer(index).tolist() == small.get_buffer(index).tolist()
    again.load_state_dict(small.state_dict())
    assert largest_difference(small(x), again.eval()(x)) == 0


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v2"])
def test_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    model = randomized(fp.models.create(name, classes=7)).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ends = [layer for layer in filter_layers(model, x[:1]) if layer.branch_end and layer.norm is not None]
    dead: dict[str, list[int]] = {}
    for number, layer in enumerate(ends):
        norm = layer.norm.running_mean.rpartition(".")[0]
        if number % 4:
            share = (0, 2, 1, 1)[number % 4]
            dead[norm] = list(range(0, layer.filters, share))
            kill(model.get_submodule(norm), dead[norm], 0.4 if number % 8 > 3 else 0.0)
    plan = fp.plan(model, x[:1], macs=0.3, importance=fp.importance.L2(), branches=True)
    assert {"opened", "constant", "vanished"} <= {branch.kind for branch in plan.branches}
    small = fp.prune(model, plan).eval()
    measured = fp.measure(small, x[:1])
    assert (measured.macs, measured.params) == (plan.macs[1], plan.params[1])
    with torch.no_grad():
        expected = branch_twin(model, plan, dead)(x)
        assert largest_difference(expected, small(x)) < 1e-10 * max(1.0, float(expected.abs().max()))


def test_it_is_explained_and_a_network_so_cut_is_cut_again() -> None:
    model = network()
    assert explain(model, images(1)).branches == ("blocks.0.bn2", "blocks.1.bn2", "blocks.2.bn2")
    assert "blocks.1.bn2" in str(explain(model, images(1), ignore="blocks.0"))
    kill(model.blocks[1].bn2, [0, 2, 3, 7], 0.2)
    small = fp.prune(model, images(1), threshold=1e-2, branches="always")
    assert explain(small, images(1)).branches == ("blocks.0.bn2", "blocks.2.bn2")
    kill(small.blocks[0].bn1, [2], -0.2)
    kill(small.blocks[2].bn2, range(8), 0.2)
    x = images()
    plan = fp.plan(small, x[:1], threshold=1e-2, branches=True)
    assert plan.removed["blocks.0.conv1.weight"] == {0: (2,)}
    assert [branch.module for branch in plan.branches] == ["blocks.2"]
    assert largest_difference(small.eval()(x), fp.prune(small, plan).eval()(x)) < 1e-12
    less = fp.plan(small, x[:1], params=0.8, importance=fp.importance.L2())
    assert less.params[1] == fp.measure(fp.prune(small, less), x[:1]).params


def test_the_command_line_and_recipes_know_it(tmp_path: Path) -> None:
    model = fp.models.create("resnet8")
    with torch.no_grad():
        model.layer2[0].bn2.weight.zero_()
        model.layer3[0].bn2.weight[:40] = 0.0
    fp.save(model, tmp_path / "dense.fp", notes={"input": [3, 32, 32]})
    out = tmp_path / "small.fp"
    asked = ["prune", str(tmp_path / "dense.fp"), "--out", str(out), "--threshold", "0.01", "--branches"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0 and "no end lives" in said.output and "24 of 64 ends live" in said.output
    small = fp.load(out).eval()
    x = torch.randn(2, 3, 32, 32)
    assert largest_difference(model.eval()(x), small(x)) < 1e-4
    for value in (True, "always"):
        section = PruningSection(budgets=[{"threshold": 0.01}], branches=value)
        assert section.request(section.budgets[0]).branches == value


def test_a_run_changes_branches_and_measures_its_target_with_them(tmp_path: Path) -> None:
    """Next to everything counts as dead here, so that a run of seconds has dead ends."""
    recipe = Recipe.model_validate(
        {
            "network": {"name": "resnet8", "options": {"in_channels": 1, "width": 8}},
            "data": {"name": "digits", "subset": 64},
            "training": {"epochs": 2, "batch_size": 32},
            "flow": {"gradient": "5%", "target_macs": 0.4},
            "pruning": {"budgets": [{"threshold": 0.98}], "branches": "always"},
            "finetuning": {"epochs": 1, "batch_size": 32},
        }
    )
    run(recipe, tmp_path / "out", progress=False)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (plan,) = results["plans"].values()
    assert plan["branches"] and plan["macs"][1] < plan["macs"][0]
    _, pruned, finetuned = results["rows"]
    assert finetuned["macs"] == pruned["macs"] == plan["macs"][1]
    trained = results["histories"]["resnet8/ffr/dense"]
    assert trained[-1]["macs_left"] == pytest.approx(plan["macs"][1] / plan["macs"][0])
    small = fp.load(next((tmp_path / "out" / "models").glob("*pruned.fp")))
    assert fp.measure(small, torch.zeros(1, 1, 16, 16)).macs == plan["macs"][1]


def test_a_budget_of_time_may_change_branches() -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), 0.2)
    plan = fp.plan(model.float(), images(1).float(), latency="10s", importance=fp.importance.L2(), branches=True)
    assert [branch.kind for branch in plan.branches] == ["constant"]


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "other"), ("activation", "exp"), ("module", "blocks.9"), ("module", "")]
)
def test_a_plan_that_is_no_plan_of_this_model_is_refused(key: str, value: str) -> None:
    model = network()
    kill(model.blocks[1].bn2, range(8), 0.2)
    data = fp.plan(model, images(1), threshold=1e-2, branches=True).as_dict()
    data["branches"][0][key] = value
    with pytest.raises(ModelError, match="the plan changes the branch"):
        fp.prune(model, Plan.from_dict(data))


def test_a_model_without_branches_says_nothing_of_them() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    x = torch.randn(1, 3, 8, 8)
    plan = fp.plan(plain, x, threshold=1e-2, branches=True)
    assert plan.branches == () and plan.branches_left == {}
    with pytest.raises(BudgetError):
        fp.plan(plain, x, branches=True)
