"""HAP's decision: the authors' numbers, the budget with its implants, and the phases that carry it out."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from fixtures import double, fixture
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.coupling import Member
from flowprune.engine.planning import CoupledModel
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import BudgetError, FlowpruneError, RecipeError
from flowprune.methods.decisions import HessianSplit
from flowprune.methods.importance import Hessian, hessian
from flowprune.methods.replacements.implant_masks import implants_in, middle_taps
from flowprune.methods.replacements.implant_split import three_way_split
from flowprune.studies.phases.cut_phase import CutPhase
from flowprune.studies.phases.replace_phase import ReplacePhase
from flowprune.studies.phases.working import Work
from flowprune.training import load_data


class Theirs(nn.Module):
    """The network of the fixtures."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.c2, self.b2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.b2(self.c2(torch.tanh(self.b1(self.c1(x))))))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(("name", "layers"), [("HAP-neural-implant-ratio50-ni20", 2), ("HAP-prune-ratio50-limit95", 3)])
def test_the_sensitivity_is_that_of_the_authors_code(name: str, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the half of the paper's formula, and for negative estimates, which count as zero."""
    given = fixture("HAP-hutchinson-channel-trace")["inputs"]
    wanted = fixture(name)["outputs"]["sensitivity"]
    model = Theirs().double().eval()
    model.load_state_dict({key: double(value) for key, value in given["state"].items()}, strict=False)
    batch = double(given["x"]), torch.tensor(given["y"])
    names = [f"{layer}.weight" for layer in ("c1", "c2", "fc")[:layers]]
    signs = iter([double(probe[one]) for probe in given["probes"].values() for one in names])
    monkeypatch.setattr(hessian, "random_signs", lambda like, generator: next(signs))
    sizes = [len(model.get_parameter(one)) for one in names]
    members = [Member(one, 0, "output", torch.arange(n)[:, None].numpy()) for one, n in zip(names, sizes, strict=True)]
    found = Hessian([batch], probes=len(given["probes"])).member_scores(model, batch[0], members)
    for one, scores in zip(names, found, strict=True):
        assert scores is not None
        torch.testing.assert_close(2 * scores, double(wanted[one]).clamp(min=0), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("ratio", [50, 70])
def test_what_stays_is_what_the_authors_code_keeps(ratio: int) -> None:
    """Where theirs keeps number 0 of a layer that would keep one filter at most, ours keeps the best; classifiers stay whole."""
    found = fixture(f"HAP-prune-ratio{ratio}-limit95")
    scores = {name: double(values) for name, values in found["outputs"]["sensitivity"].items()}
    split = three_way_split(scores, found["inputs"]["ratio"], implants=0, cap=found["inputs"]["cap"])
    kept = {name: split[name].full for name in ("c1.weight", "c2.weight")}
    theirs = {name: found["outputs"]["kept"][name] for name in kept}
    if ratio == 70:
        assert theirs["c2.weight"] == [0] and scores["c2.weight"].argmax() == 6
        theirs["c2.weight"] = [6]
    assert kept == theirs


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    data = load_data("digits", size=8)
    return Work(data, torch.device("cpu"), 0, tmp_path_factory.mktemp("stage"), "toy", progress=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("resnet8", in_channels=1, width=8).eval()


def test_the_network_with_its_implants_meets_the_budget_is_exported_saved_and_loaded(
    work: Work, tmp_path: Path
) -> None:
    dense, x = network(), torch.randn(4, 1, 8, 8)
    decision = {"name": "hessian_split", "options": {"macs": 0.5, "implants": 0.3, "probes": 2}}
    cut = CutPhase(batches=1, batch_size=32, decided_by=decision)
    cut.check(dense, work.example(), None)
    small, _, outcome = cut.carried_out(dense, work)
    assert outcome is not None and outcome.leaves is None
    decided = implants_in(outcome.masks or {})
    assert len(decided) > 2
    phase = ReplacePhase(replacement="neural_implant", options={"masks": "outcome", "start": "centre"})
    new = phase.carried_out(small, Work(**{**vars(work), "outcome": outcome})).model.eval()
    for name, filters in decided.items():
        layer = new.get_submodule(name)
        assert layer.order[-len(filters) :].numel() and layer.implant.out_channels == len(filters)
        weight = small.get_submodule(name).weight[filters][:, :, 1, 1]
        assert torch.equal(layer.implant.weight[:, :, 0, 0], weight)
    macs = [fp.measure(one, work.example()).macs for one in (dense, small, new)]
    assert 0.45 * macs[0] < macs[2] <= 0.5 * macs[0] < macs[1]
    masked = fp.mask(small, x, mask=outcome.masks).eval()  # the form with zeros computes the same
    torch.testing.assert_close(masked(x), new(x))
    fp.save(new, tmp_path / "new.fp")
    assert torch.equal(fp.load(tmp_path / "new.fp").eval()(x), new(x))
    fp.export(new, x, tmp_path / "new.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx")
    said = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(said, new(x).detach(), atol=1e-5, rtol=0)


def test_the_least_sensitive_leave_and_the_next_become_1x1(work: Work) -> None:
    """Of the channels inside a block, which one layer makes alone."""
    dense, name = network(), "layer3.0.conv1"
    batches = work.batches(1, 64)
    outcome = HessianSplit(batches, macs=0.4, implants=0.5, probes=2)(dense)
    groups = CoupledModel.of(dense, batches[0][0]).coupling.groups
    ranked = zip(groups, Hessian(batches, probes=2, aggregation="sum")(dense, batches[0][0], groups), strict=True)
    scores = next(worth for group, worth in ranked if group.name == name)
    assert outcome.leaves is not None and outcome.masks is not None
    gone, small = outcome.leaves[f"{name}.weight"].tolist(), implants_in(outcome.masks)[name]
    whole = sorted({*range(32)} - {*gone, *small})
    assert scores[gone].max() <= scores[small].min() and scores[small].max() <= scores[whole].min()


def test_a_network_that_can_have_no_implants_is_cut_and_no_module_replaced() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    outcome = HessianSplit([(x, y)], macs=0.5, probes=2)(dense)
    assert outcome.masks == {}
    small = fp.prune(dense, fp.plan(dense, x, outcome=outcome))
    assert small[0].out_features == 8
    new = fp.replace(small, x, replacement="neural_implant", masks=outcome.masks)
    assert torch.equal(new(x), small(x))


def test_in_several_steps_the_sensitivity_is_estimated_anew_and_the_last_has_the_implants(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    scores = Hessian.member_scores

    def seen(self: Hessian, model: nn.Module, inputs: object, members: object) -> object:
        asked.append(fp.measure(model, work.example()).macs)
        return scores(self, model, inputs, members)  # type: ignore[arg-type]

    monkeypatch.setattr(Hessian, "member_scores", seen)
    decision = {"name": "hessian_split", "options": {"macs": 0.25, "implants": 0.3, "probes": 1}}
    training = {"epochs": 1, "batch_size": 64, "augmentation": None, "precision": "float32"}
    cut = CutPhase(batches=1, batch_size=32, decided_by=decision, steps=2, between=training)
    here = Work(**{**vars(work), "folder": tmp_path / "stage"})
    small, found, outcome = cut.carried_out(network(), here)
    whole, half = asked
    assert 0.45 * whole < half <= 0.5 * whole and (tmp_path / "stage-step1" / "checkpoint.pt").is_file()
    assert outcome is not None and outcome.masks and len(lineage_of(small).plans) == 2
    phase = ReplacePhase(replacement="neural_implant", options={"masks": "outcome"})
    new = phase.carried_out(small, Work(**{**vars(here), "outcome": outcome})).model
    assert 0.2 * whole < fp.measure(new, work.example()).macs <= 0.25 * whole
    assert found["plan"]["macs"] == [whole, fp.measure(small, work.example()).macs]
    with pytest.raises(RecipeError, match="entropic has no budget that several cuts could lead to; set steps to 1"):
        CutPhase(decided_by="entropic", steps=2).check(network(), work.example(), None)


def test_what_cannot_be_asked_is_refused_before_anything_is_trained(work: Work) -> None:
    def asked(**options: object) -> CutPhase:
        return CutPhase(decided_by={"name": "hessian_split", "options": options})

    with pytest.raises(
        BudgetError, match=r"macs=0.001 cannot be met: with cap=0.95 and implants=0.1 [\d,]+ MACs are left"
    ):
        asked(macs=0.001).check(network(), work.example(), None)
    for wrong, said in (({"implants": 2}, "implants=2"), ({"macs": 0}, "macs=0"), ({"probes": 0}, "probes=0")):
        with pytest.raises(FlowpruneError, match=said):
            asked(**wrong).check(network(), work.example(), None)


def test_masks_and_implants_are_each_others_reverse() -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Conv2d(5, 4, (1, 5)))
    chosen = {"0": [1, 4], "1": [0]}
    masks = middle_taps(model, chosen)
    assert int(masks["0.weight"].sum()) == 3 * 18 + 2 * 2 and implants_in(masks) == chosen
    assert implants_in({"0.weight": torch.ones(5, 2, 3, 3, dtype=torch.bool)}) == {}
