"""Pre-defined sparsity and HetConv's pattern, against what others' code makes, on real networks, and under budgets."""

from __future__ import annotations

import pytest
import torch
import torchvision
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.errors import BudgetError, FlowpruneError, ModelError
from flowprune.methods.importance.weight_scores import WeightMagnitude
from flowprune.methods.masks import REGISTRY, HetConv, PredefinedSparsity, density


@pytest.mark.parametrize("taps", [2, 4])
def test_predefined_sparsity_makes_the_authors_masks(taps: int) -> None:
    case = fixture(f"predefined-PSD{taps}_P8-masks")
    weights = {str(number): torch.empty(shape) for number, shape in enumerate(case["inputs"]["layers"])}
    masks = PredefinedSparsity(taps=taps, period=case["inputs"]["period"]).select(weights)
    for mask, theirs, kept in zip(
        masks.values(), case["outputs"]["masks"], case["outputs"]["kept_fraction"], strict=True
    ):
        assert mask.int().tolist() == theirs
        assert density({"": mask}) == pytest.approx(kept, abs=1e-6)


def test_hetconv_keeps_the_taps_of_a_public_implementation() -> None:
    case = fixture("hetconv-mask")
    for inputs, outputs in zip(case["inputs"]["cases"], case["outputs"]["cases"], strict=True):
        kernel = torch.tensor(outputs["effective_kernel"], dtype=torch.float64)
        mask = HetConv(p=inputs["p"], first_dense=False).select({"weight": kernel})["weight"]
        assert mask.sum((2, 3)).tolist() == outputs["taps_per_kernel"]
        assert torch.equal(kernel * mask, kernel)
        assert density({"": mask}) == outputs["kept_fraction"]


def test_the_densities_of_the_papers() -> None:
    """In long layers; and HetConv's VGG-16 with P4 and P32, whose counts the paper gives in millions."""
    weight = {"weight": torch.empty(128, 128, 3, 3)}
    for taps, period, share in ((4, 8, 0.514), (2, 8, 0.319), (1, 8, 0.222), (1, 16, 0.167)):
        mask = PredefinedSparsity(taps=taps, period=period, first_dense=False)
        assert density(mask.select(weight)) == pytest.approx(share, abs=5e-4)
        assert mask.select(weight, keep=share)["weight"].shape == (128, 128, 3, 3)
    model = fp.models.create("vgg16")
    dense = {layer.layer: layer.macs for layer in fp.measure(model, torch.zeros(1, 3, 32, 32)).layers}
    scores = WeightMagnitude()(model)
    for p, millions in ((4, 105.98), (32, 45.38)):
        masks = HetConv(p=p).select(scores)
        macs = sum(dense[name.removesuffix(".weight")] * density({name: mask}) for name, mask in masks.items())
        assert macs / 1e6 == pytest.approx(millions, rel=0.01)  # theirs has a larger classifier


def test_the_mask_is_the_same_at_initialisation_and_on_trained_weights_and_on_any_values() -> None:
    model = fp.models.create("resnet20")
    for pattern in (PredefinedSparsity(), HetConv()):
        first = pattern.select(WeightMagnitude()(model))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-3)
        second = pattern.select(WeightMagnitude()(model))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_another_density_is_refused_with_the_nearest_named() -> None:
    weights = {"stem": torch.empty(64, 3, 3, 3), "inner": torch.empty(64, 64, 3, 3)}
    with pytest.raises(BudgetError, match=r"taps=4, period=8 keeps 0\.5\d+ .* nearest to that is .*taps=1, period=17"):
        PredefinedSparsity().select(weights, keep=0.2)
    with pytest.raises(BudgetError, match=r"the nearest to that is hetconv with p=2"):
        HetConv(p=4).select(weights, keep=0.6)
    with pytest.raises(BudgetError, match=r"no setting of it comes nearer"):
        HetConv(p=2).select(weights, keep=0.9)
    own = density(HetConv(p=4).select(weights))
    assert density(HetConv(p=4).select(weights, keep=round(own, 3))) == own
    with pytest.raises(BudgetError, match=r"not 0\.5000"):
        HetConv(p=4).select(weights, keep={"stem": 0.5, "inner": 0.5})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(2, 9), st.integers(2, 6))
def test_what_is_named_as_the_density_is_kept(filters: int, channels: int, taps: int, period: int, p: int) -> None:
    """What the message computes from the shape is what the mask has."""
    for pattern in (PredefinedSparsity(taps=taps, period=period, first_dense=False), HetConv(p=p, first_dense=False)):
        shapes = {"a": (filters, channels, 3, 3), "b": (filters, channels)}
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
        masks = pattern._masks(weights)
        assert pattern._density(shapes) == pytest.approx(density(masks))
        assert masks["a"].flatten(2).any(2).all() and masks["b"].all()  # every kernel keeps a tap


def test_grouped_depthwise_transposed_and_other_layers() -> None:
    """Depthwise kernels take turns over the filters; a mobile network, a transformer's patches and linear layers run."""
    depthwise = HetConv(p=4, first_dense=False).select({"weight": torch.empty(8, 1, 3, 3)})["weight"]
    assert depthwise.sum((1, 2, 3)).tolist() == [9, 1, 1, 1, 9, 1, 1, 1]
    transposed = nn.ConvTranspose2d(4, 6, 3)
    mask = HetConv(p=2, first_dense=False).select({"weight": transposed.weight})["weight"]
    assert mask.sum((2, 3))[0].tolist() == [9, 1, 9, 1, 9, 1]
    mobile = torchvision.models.mobilenet_v2(num_classes=5)
    masks = PredefinedSparsity().select(WeightMagnitude()(mobile))
    assert {mask.shape[-1] for mask in masks.values() if mask.ndim == 4 and not mask.all()} == {3}
    assert all(mask.all() for mask in masks.values() if mask.ndim == 2 or mask.shape[-1] == 1)
    with pytest.raises(ModelError, match="finds no kernel that it fits"):
        PredefinedSparsity().select(WeightMagnitude()(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))))


def test_hetconv_along_one_and_three_dimensions_and_even_kernels() -> None:
    for dimensions in (1, 3):
        mask = HetConv(p=2, first_dense=False).select({"weight": torch.empty(2, 2, *[5] * dimensions)})["weight"]
        centre = mask[(0, 1, *[2] * dimensions)]
        assert centre and mask[0, 1].sum() == 1 and mask[0, 0].all()
    even = {"even": torch.empty(4, 4, 2, 2), "odd": torch.empty(4, 4, 3, 3)}
    assert HetConv(first_dense=False).select(even)["even"].all()


def test_settings_that_are_none() -> None:
    for name, options in (
        ("predefined_sparsity", {"taps": 3}),
        ("predefined_sparsity", {"period": 1}),
        ("hetconv", {"p": 1}),
        ("hetconv", {"p": True}),
    ):
        with pytest.raises(FlowpruneError, match=next(iter(options))):
            REGISTRY[name](**options)
