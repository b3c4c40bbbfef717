"""What a mask promises: zeros that stay zero, through training, cuts and further masks; and the model it came from untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from fixtures import fixture
from torch import nn

import flowprune as fp
from flowprune.engine.steps import lineage_of
from flowprune.methods.masks import HetConv

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("resnet8", width=8)


def zero_where_masked(model: nn.Module) -> bool:
    parameters = dict(model.named_parameters())
    masks = lineage_of(model).masks
    return bool(masks) and all(bool((parameters[name][~mask] == 0).all()) for name, mask in masks.items())


def steps_of(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 2) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(IMAGES).square().sum().backward()
        optimizer.step()


def test_a_budget_is_met_to_the_weight_and_the_model_is_left_alone() -> None:
    model = small_resnet()
    before = copy.deepcopy(model.state_dict())
    for weights, kept in ((0.25, None), ("3K", 3000)):
        sparse = fp.mask(model, IMAGES, mask="weight", weights=weights)
        step = lineage_of(sparse).steps[-1].data
        assert step["kept"] == (kept or int(0.25 * step["of"]))
        assert step["kept"] == sum(
            int((dict(sparse.named_parameters())[name] != 0).sum()) for name in lineage_of(sparse).masks
        )
        assert zero_where_masked(sparse)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not lineage_of(model).masks


def test_layers_that_are_ignored_stay_whole_and_allocators_share_out_the_rest() -> None:
    sparse = fp.mask(small_resnet(), IMAGES, weights=0.3, ignore=["conv1", "linear"], allocator="erdos_renyi_kernel")
    masks = lineage_of(sparse).masks
    assert not {"conv1.weight", "linear.weight"} & set(masks)
    shares = {name: float(mask.float().mean()) for name, mask in masks.items()}
    assert shares["layer1.0.conv1.weight"] > shares["layer3.0.conv2.weight"]  # ERK: small layers keep more
    step = lineage_of(sparse).steps[-1].data
    assert 0 <= 0.3 * step["of"] - step["kept"] < len(masks)


def test_a_mask_after_a_mask_never_brings_a_weight_back() -> None:
    once = fp.mask(small_resnet(), IMAGES, weights=0.5)
    twice = fp.mask(once, IMAGES, mask="hetconv", p=4)
    first, second = lineage_of(once).masks, lineage_of(twice).masks
    assert all(not bool((second[name] & ~first[name]).any()) for name in second)
    assert any(not torch.equal(first[name], second[name]) for name in second) and zero_where_masked(twice)


def test_a_fixed_pattern_says_what_it_keeps_and_names_the_nearest() -> None:
    sparse = fp.mask(small_resnet(), IMAGES, mask=HetConv(p=4))
    share = lineage_of(sparse).steps[-1].data["kept"] / lineage_of(sparse).steps[-1].data["of"]
    assert fp.mask(small_resnet(), IMAGES, mask="hetconv", weights=round(share, 4)) is not None
    with pytest.raises(fp.FlowpruneError, match=r"hetconv with p=\d+") as raised:
        fp.mask(small_resnet(), IMAGES, mask="hetconv", weights=0.6)
    assert "\n" not in str(raised.value)


def test_masks_that_were_decided_elsewhere_are_carried_out() -> None:
    model = small_resnet()
    mask = torch.rand(model.conv1.weight.shape) > 0.5
    sparse = fp.mask(model, IMAGES, mask={"conv1.weight": mask})
    assert torch.equal(sparse.conv1.weight != 0, mask)
    for wrong, said in (
        ({"conv9.weight": mask}, "conv9"),
        ({"conv1.weight": mask[:2]}, "shape"),
        ({"conv1.weight": mask.int()}, "bool"),
    ):
        with pytest.raises(fp.FlowpruneError, match=said):
            fp.mask(model, IMAGES, mask=wrong)


@pytest.mark.parametrize("make", [
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
])  # fmt: skip
def test_held_weights_stay_exactly_zero_until_the_handle_is_closed(make) -> None:
    sparse = fp.mask(small_resnet(), IMAGES, mask="n_m", weights=0.5)
    loose = copy.deepcopy(sparse)
    steps_of(loose, make(loose.parameters()))
    assert not zero_where_masked(loose)  # the test can fail
    before = sparse.conv1.weight.clone()
    optimizer = make(sparse.parameters())
    with fp.hold(sparse, optimizer):
        steps_of(sparse, optimizer)
        assert zero_where_masked(sparse) and not torch.equal(before, sparse.conv1.weight)
    steps_of(sparse, optimizer)
    assert not zero_where_masked(sparse)


def test_what_cannot_be_held_is_one_line() -> None:
    sparse = fp.mask(small_resnet(), IMAGES, mask="n_m")
    with pytest.raises(fp.FlowpruneError, match="this very model's"):
        fp.hold(sparse, torch.optim.SGD(small_resnet().parameters(), lr=0.1))
    with pytest.raises(fp.FlowpruneError, match="no masked weights"):
        fp.hold(small_resnet(), torch.optim.SGD(small_resnet().parameters(), lr=0.1))


def test_masks_are_cut_along_and_held_in_the_small_model() -> None:
    sparse = fp.mask(small_resnet(), IMAGES, mask="n_m", weights=0.5)
    small = fp.prune(sparse, IMAGES, importance=fp.importance.L2(), macs=0.5)
    parameters = dict(small.named_parameters())
    for name, mask in lineage_of(small).masks.items():
        assert torch.equal(parameters[name] != 0, mask)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    with fp.hold(small, optimizer):
        steps_of(small, optimizer)
    assert zero_where_masked(small)


def test_filters_that_a_mask_leaves_nothing_of_are_cut_with_their_norms() -> None:
    model = small_resnet()
    masks = {"layer1.0.conv1.weight": torch.ones_like(model.layer1[0].conv1.weight, dtype=torch.bool)}
    masks["layer1.0.conv1.weight"][2:5] = False
    for part in ("weight", "bias"):
        masks[f"layer1.0.bn1.{part}"] = masks["layer1.0.conv1.weight"][:, 0, 0, 0].clone()
    sparse = fp.mask(model, IMAGES, mask=masks)
    small = fp.prune(sparse, IMAGES, threshold=0.01)
    assert small.layer1[0].conv1.out_channels == 5
    torch.testing.assert_close(small.eval()(IMAGES), sparse.eval()(IMAGES))
    assert all(mask.all() for mask in lineage_of(small).masks.values())


def test_a_network_cut_with_changed_branches_keeps_its_other_masks() -> None:
    model = small_resnet()
    with torch.no_grad():
        model.layer2[0].bn2.weight[3:].zero_()
        model.layer3[0].bn2.weight.zero_()
    sparse = fp.mask(model, IMAGES, mask="n_m", weights=0.5)
    small = fp.prune(sparse, IMAGES, threshold=0.01, branches="always")
    parameters = dict(small.named_parameters())
    masks = lineage_of(small).masks
    assert masks and len(masks) < len(
        lineage_of(sparse).masks
    )  # a branch that gives a constant has no weights any more
    assert all(torch.equal(parameters[name] != 0, mask) for name, mask in masks.items())


def test_the_authors_percentile_is_a_share_of_each_layer() -> None:
    case = fixture("sHAM-pruning-percentile")
    weight = torch.tensor(case["inputs"]["W"], dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    kept = 1 - case["inputs"]["p"] / 100
    sparse = fp.mask(layer, weight[:1], mask="weight", scope="local", weights=kept)
    assert torch.equal(sparse.weight, torch.tensor(case["outputs"]["W_pruned"], dtype=torch.float64))
