"""Weight criteria against their formulas written out channel by channel, on hand-made and on traced groups."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.engine.coupling import CoupledGroup, Member, analyse, group_channels
from flowprune.engine.tracing import trace
from flowprune.errors import ModelError, UnknownNameError
from flowprune.methods.importance import FPGM, L1, L2, REGISTRY, BatchNormGamma, FilterScale, Random
from flowprune.methods.importance._scores.group_scores import aggregated, normalized
from flowprune.models import create
from flowprune.registry import Registry

X = torch.zeros(2, 3, 16, 16)


def groups_of(model: nn.Module, x: torch.Tensor = X) -> tuple[CoupledGroup, ...]:
    notes, passes = analyse(model, [trace(model, x)])
    return group_channels(notes, passes).groups


def worn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and statistics, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        for parameter in model.parameters():
            parameter.mul_(torch.where(torch.rand(parameter.shape, generator=generator) < 0.5, -1.0, 1.0))
    return model


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return worn(create("resnet20"))


@pytest.fixture(scope="module")
def groups(resnet: nn.Module) -> tuple[CoupledGroup, ...]:
    found = groups_of(resnet)
    assert len(found) > 5
    return found


def naive(model: nn.Module, group: CoupledGroup, norm: int, divide: bool) -> list[float]:
    """The paper's sum, one filter and one weight at a time."""
    parameters = dict(model.named_parameters())
    per_member = []
    for member in group.members:
        if member.role != "output" or not member.name.endswith(".weight"):
            continue
        filters = parameters[member.name].detach().double().numpy()
        lengths = []
        for numbers in np.abs(filters.reshape(len(filters), -1)).tolist():
            lengths.append(sum(numbers) if norm == 1 else math.sqrt(sum(w * w for w in numbers)))
        average = sum(lengths) / len(lengths)  # of the layer, whichever groups its filters are in
        scores = [lengths[index] for (index,) in member.indices]
        per_member.append([score / average if divide else score for score in scores])
    return [sum(column) / len(column) for column in zip(*per_member, strict=True)]


@pytest.mark.parametrize(("criterion", "norm"), [(L1, 1), (L2, 2)])
@pytest.mark.parametrize("normalize", ["mean", "none"])
def test_weight_norms_follow_their_formula(resnet, groups, criterion, norm, normalize):
    scores = criterion(normalize=normalize)(resnet, X, groups)
    for group, found in zip(groups, scores, strict=True):
        assert found.dtype == torch.float64 and found.shape == (group.channels,)
        expected = naive(resnet, group, norm, divide=normalize == "mean")
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_fpgm_is_the_sum_of_distances_to_the_layers_other_filters():
    model = worn(create("resnet20")).double()
    groups = groups_of(model, X.double())
    parameters = dict(model.named_parameters())
    assert any(len(m.indices) < len(parameters[m.name]) for g in groups for m in g.members if m.role == "output")
    for group, found in zip(groups, FPGM(normalize="none")(model, X, groups), strict=True):
        expected = []
        for member in group.members:
            if member.role != "output" or not member.name.endswith(".weight"):
                continue
            filters = parameters[member.name].detach().numpy()
            expected.append([sum(np.linalg.norm(filters[j] - other) for other in filters) for (j,) in member.indices])
        np.testing.assert_allclose(found.numpy(), np.mean(expected, axis=0), rtol=1e-9)


def test_fpgm_of_equal_filters_is_zero():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(3, 3, 3).expand(4, 3, 3, 3))
    (found,) = FPGM(normalize="none")(model, X, groups_of(model))
    assert float(found.max()) < 1e-6


def test_gamma_is_the_mean_absolute_scale_of_the_groups_batch_norms(resnet, groups):
    state = resnet.state_dict()
    for group, found in zip(groups, BatchNormGamma()(resnet, X, groups), strict=True):
        members = [m for m in group.members if m.role == "normalization" and m.name.endswith(".weight")]
        expected = np.mean([np.abs(state[m.name].numpy()[m.indices[:, 0]]) for m in members], axis=0)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_filter_scale_is_what_leaves_the_batch_norm(resnet, groups):
    state = resnet.state_dict()
    for group, found in zip(groups, FilterScale()(resnet, X, groups), strict=True):
        norms = [m.name.removesuffix("running_var") for m in group.members if m.name.endswith("running_var")]
        places = {m.name: m.indices[:, 0] for m in group.members}
        expected = []
        for norm in norms:
            gamma, var = state[norm + "weight"].double().numpy(), state[norm + "running_var"].double().numpy()
            expected.append((np.abs(gamma) * np.sqrt(var / (var + 1e-5)))[places[norm + "running_var"]])
        np.testing.assert_allclose(found.numpy(), np.max(expected, axis=0), rtol=1e-9)


def test_filter_scale_without_a_batch_norm_needs_data_and_then_measures_the_deviation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).double()
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    groups = groups_of(model, x)
    assert bool(torch.isinf(FilterScale()(model, x, groups)[0]).all())
    batches = [torch.randn(5, 3, 8, 8, dtype=torch.float64) + 3, torch.randn(2, 3, 8, 8, dtype=torch.float64)]
    found = FilterScale(iter(batches))(model, x, groups)[0]
    output = model[0](torch.cat(batches)).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found, output.std(dim=1, correction=0), rtol=1e-12, atol=0)


def test_a_channel_in_several_places_counts_all_of_them():
    model = nn.Linear(2, 6, bias=False)
    member = Member("weight", 0, "output", np.array([[0, 3], [1, 4], [2, 5]]))
    group = CoupledGroup("", 3, (member,), ())
    (found,) = L1(normalize="none")(model, X, [group])
    w = model.weight.detach().abs().double()
    torch.testing.assert_close(found, w[:3].sum(1) + w[3:].sum(1))


def test_biases_and_consumers_do_not_count():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    groups = groups_of(model)
    before = L2()(model, X, groups)
    with torch.no_grad():
        model[0].bias.fill_(100)
        model[1].weight.fill_(100)
    for a, b in zip(before, L2()(model, X, groups), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_members_are_aggregated_as_asked(how):
    members = [torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])]
    expected = {"mean": [2.0, 3.0], "sum": [4.0, 6.0], "max": [3.0, 5.0]}[how]
    assert aggregated(members, how, 2).tolist() == expected


def test_what_cannot_be_judged_is_kept():
    assert bool(torch.isinf(aggregated([], "mean", 3)).all())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [3.0, 4.0]),
        ("l1", [3 / 7, 4 / 7]),
        ("l2", [0.6, 0.8]),
        ("max", [0.75, 1.0]),
        ("mean", [6 / 7, 8 / 7]),
        ("z-score", [-1.0, 1.0]),
        ("min-max", [0.0, 1.0]),
    ],
)
def test_layers_are_normalised_as_asked(how, expected):
    ((scores,), (half,)) = normalized([[("a", torch.tensor([3.0, 4.0]))], [("b", torch.zeros(2))]], how)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)
    assert half.tolist() == [0.0, 0.0]
    ((first,), (second,)) = normalized([[("a", torch.tensor([3.0]))], [("a", torch.tensor([4.0]))]], how)
    np.testing.assert_allclose([float(first), float(second)], expected, rtol=1e-12)
    ((unjudged,),) = normalized([[("a", torch.tensor([3.0, 4.0, torch.inf]))]], how)
    np.testing.assert_allclose(unjudged.numpy(), [*expected, np.inf], rtol=1e-12)


def test_random_is_repeatable_and_leaves_the_global_state_alone(groups):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = Random(seed=5)(nn.Identity(), X, groups), Random(seed=5)(nn.Identity(), X, groups)
    other = Random(seed=6)(nn.Identity(), X, groups)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        (L1(), "layer1.0.conv1.weight"),
        (L2(), "layer1.0.conv1.weight"),
        (FPGM(), "layer1.0.conv1.weight"),
        (BatchNormGamma(), "layer1.0.bn1.weight"),
        (FilterScale(), "layer1.0.bn1.running_var"),
    ],
)
def test_nan_is_refused_by_name(criterion, name):
    model = create("resnet20")
    groups = groups_of(model)
    model.state_dict()[name].view(-1)[0] = float("nan")
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        criterion(model, X, groups)


def test_a_wrong_option_names_the_nearest():
    with pytest.raises(UnknownNameError, match="'mean'"):
        L1(normalize="men")
    with pytest.raises(UnknownNameError, match="'max'"):
        L2(aggregation="maxx")


def test_every_criterion_is_found_by_name():
    weights = {"l1", "l2", "fpgm", "batch_norm_gamma", "filter_scale", "random"}
    maps = {"nuclear_norm", "hrank", "chip", "activation_mean", "apoz"}
    assert set(REGISTRY) >= weights | maps | {"taylor", "taylor_activation", "hessian"}
    assert REGISTRY["l2"] is L2
    with pytest.raises(UnknownNameError, match="nuclear_norm"):
        REGISTRY["nuclear_nrm"]


def test_every_criterion_is_handed_out_by_its_class_name():
    for name in REGISTRY:
        assert getattr(fp.importance, REGISTRY[name].__name__) is REGISTRY[name]
    assert {"L1", "L2", "REGISTRY"} <= set(dir(fp.importance))
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = fp.importance.Nonsense


def test_a_new_file_in_the_room_is_all_that_a_criterion_takes(tmp_path: Path):
    (tmp_path / "last_is_best.py").write_text(
        "import torch\n"
        "from flowprune.methods.importance.registry import REGISTRY\n"
        "@REGISTRY.register('last_is_best')\n"
        "class LastIsBest:\n"
        "    def __call__(self, model, inputs, groups):\n"
        "        return [torch.arange(group.channels, dtype=torch.float64) for group in groups]\n"
    )
    code = (
        "import flowprune as fp\n"
        f"fp.importance.__path__.append({str(tmp_path)!r})\n"
        "from flowprune.importance import *\n"
        "assert LastIsBest is fp.importance.LastIsBest is fp.importance.REGISTRY['last_is_best']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plug_in_that_is_not_loaded_yet_can_take_a_class_from_the_room(tmp_path: Path, monkeypatch):
    """The room hands its own classes out without loading entry points, or a plug-in's import would go in a circle."""
    (tmp_path / "of_l2.py").write_text(
        "from flowprune.methods.importance import L2\n\n\nclass OfL2(L2):\n    'Another.'\n"
    )
    record = tmp_path / "of_l2-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: of-l2\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[flowprune.importance]\nof_l2 = of_l2:OfL2\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import of_l2, flowprune as fp\n"
        "assert fp.importance.REGISTRY['of_l2'] is of_l2.OfL2 and not hasattr(fp.importance, 'OfL2')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_third_party_brings_a_criterion_through_an_entry_point(tmp_path: Path, monkeypatch, resnet, groups):
    (tmp_path / "first_channels.py").write_text(
        "import torch\n"
        "class FirstChannels:\n"
        "    def __call__(self, model, inputs, groups):\n"
        "        return [torch.arange(g.channels, 0, -1, dtype=torch.float64) for g in groups]\n"
    )
    record = tmp_path / "first_channels-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: first-channels\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[flowprune.importance]\nfirst_channels = first_channels:FirstChannels\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        registry: Registry = Registry("importance", "flowprune.methods.importance")
        scores = registry["first_channels"]()(resnet, X, groups)
        assert [s.argmax().item() for s in scores] == [0] * len(groups)
    finally:
        sys.modules.pop("first_channels", None)


def test_a_layer_in_several_groups_is_normalized_as_one_layer() -> None:
    """Half of an option-A stage's filters are tied to the stage before, half are not: one layer, one divisor."""
    model = create("resnet20").double()
    with torch.no_grad():
        model.layer2[0].conv2.weight[:8] *= 10.0
    groups = groups_of(model, torch.randn(1, 3, 32, 32, dtype=torch.float64))
    (group,) = [g for g in groups if g.name == "layer2.0.conv2"]
    makers = [m for m in group.members if m.role == "output"]
    by_layer = {}
    for member in makers:
        length = dict(model.named_parameters())[member.name].detach().double().flatten(1).norm(dim=1)
        by_layer[member.name] = (length / length.mean())[member.indices[:, 0]]
    (scores,) = [s for s, g in zip(L2()(model, None, groups), groups, strict=True) if g is group]
    assert torch.allclose(scores, torch.stack(list(by_layer.values())).mean(dim=0), rtol=1e-12)
