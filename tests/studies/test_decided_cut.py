"""A cut that calibration images decide: the decision's own weights are in it, and under a budget its scores rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError
from flowprune.methods.decisions import REGISTRY
from flowprune.methods.recovery import sparsify_entropically
from flowprune.studies.phases.cut_phase import CutPhase
from flowprune.studies.phases.working import Done, Work
from flowprune.training import load_data

MODEL = fp.models.create("resnet8", in_channels=1, width=4)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    data = load_data("digits", size=8)
    return Work(data, torch.device("cpu"), 0, tmp_path_factory.mktemp("stage"), "toy", progress=False)


def cut(work: Work, **options: Any) -> Done:
    decision = {"name": "entropic", "options": {"below": 0.6, "turns": 2}}
    return CutPhase(batches=1, batch_size=32, decided_by=decision, **options).carried_out(MODEL, work, None)


def test_what_images_decide_is_cut_with_the_weights_that_were_fitted_for_it(work: Work) -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    small = cut(work).model
    outcome = sparsify_entropically(MODEL, work.batches(1, 32), below=0.6, turns=2)
    changed = fp.models.create("resnet8", in_channels=1, width=4)
    changed.load_state_dict({**MODEL.state_dict(), **outcome.weights})  # type: ignore[dict-item]
    wanted = fp.prune(changed, fp.plan(changed, work.example(), outcome=outcome))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in MODEL.parameters())
    assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in small.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())


def test_under_a_budget_the_decision_ranks_and_no_weight_is_changed(work: Work, tmp_path: Path) -> None:
    phase = CutPhase(
        batches=1, batch_size=32, decided_by={"name": "entropic", "options": {"turns": 1}}, budgets=[{"macs": 0.6}]
    )
    small = phase.carried_out(MODEL, work, phase.budgets[0]).model
    assert fp.measure(small, work.example()).macs <= 0.6 * fp.measure(MODEL, work.example()).macs
    kept = set(MODEL.conv1.weight.flatten().tolist())
    assert set(small.conv1.weight.flatten().tolist()) <= kept
    fp.save(small, tmp_path / "small.fp")
    assert torch.equal(fp.load(tmp_path / "small.fp").state_dict()["conv1.weight"], small.conv1.weight)


@pytest.mark.parametrize("decision", ["entropy", {"name": "entropic", "options": {"beneath": 1}}])
def test_an_unknown_decision_or_option_is_named_before_anything_is_trained(decision: Any, work: Work) -> None:
    with pytest.raises(FlowpruneError, match="entropic"):
        CutPhase(decided_by=decision).check(MODEL, work.example(), None)


def test_the_variance_counts_where_it_is_asked_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    images = [torch.randn(8, 1, 8, 8)]
    found = {}
    for variance in (False, True):
        decide = REGISTRY.built("entropic", {"below": 0.5, "variance": variance}, lambda: images)
        scores = decide(model).scores
        assert scores is not None and scores["0.weight"].shape == (6,)
        found[variance] = scores["0.weight"]
    assert not torch.allclose(found[True], found[False], rtol=1e-3)
