"""Filter bases: the same function at the start, masks on coefficients, exact counts, and plain weights again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError, ModelError, UnknownNameError
from flowprune.methods.codecs import SparseHuffman
from flowprune.methods.importance.weight_scores import RandomWeights, WeightMagnitude
from flowprune.methods.masks import Weight, density
from flowprune.methods.replacements.filter_basis import (
    FilterBasis,
    coefficient_scores,
    coefficients_of,
    count_kept,
    mask_coefficients,
    restored,
    with_filter_bases,
)

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shared", ["layer", "block", "network"])
def test_with_the_standard_basis_it_is_the_plain_network_bit_for_bit(shared: str) -> None:
    torch.manual_seed(0)
    model = fp.models.create("resnet8").eval()
    wide = with_filter_bases(model, shared)  # type: ignore[arg-type]
    assert torch.equal(wide(X), model(X))
    bases = {one for one in wide.modules() if isinstance(one, FilterBasis)}
    assert len(bases) == {"layer": 7, "block": 4, "network": 1}[shared]  # the stem's block is the network itself
    counts = count_kept(wide)
    weights = sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Conv2d))
    assert counts == (weights, 81 * len(bases), 640) and counts.kept == weights + 81 * len(bases) + 640
    assert torch.equal(restored(wide)(X), model(X))


def test_coefficients_and_bases_are_trained_together_and_the_gradients_are_the_papers() -> None:
    torch.manual_seed(0)
    wide = with_filter_bases(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)).double(), "network"
    )
    basis = next(one for one in wide.modules() if isinstance(one, FilterBasis)).basis
    basis.data += 0.1 * torch.randn_like(basis)
    wide(X.double()).square().sum().backward()
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)).double()
    plain.load_state_dict(restored(wide).state_dict())
    plain(X.double()).square().sum().backward()
    expected = torch.zeros_like(basis)
    for name, coefficients in coefficients_of(wide).items():
        gradient = plain[int(name[0])].weight.grad.flatten(2)
        torch.testing.assert_close(coefficients.grad, (gradient @ basis.T).view(coefficients.shape))
        expected += torch.einsum("fcn,fck->nk", coefficients.flatten(2), gradient)
    torch.testing.assert_close(basis.grad, expected.detach())


@pytest.mark.parametrize("score", [WeightMagnitude(), RandomWeights()])
def test_any_score_masks_coefficients_and_kernels_become_dense_again(score: object) -> None:
    torch.manual_seed(0)
    wide = with_filter_bases(fp.models.create("resnet8"))
    scores = coefficient_scores(wide, score)
    assert set(coefficients_of(wide)) < set(scores) and "linear.weight" in scores
    masks = Weight().select({name: scores[name] for name in coefficients_of(wide)}, 0.3)
    mask_coefficients(wide, masks)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        wide(X).square().mean().backward()
        optimizer.step()
        mask_coefficients(wide, masks)
    counts = count_kept(wide)
    assert counts.coefficients == int(density(masks) * sum(mask.numel() for mask in masks.values()) + 0.5)
    for coefficients in coefficients_of(wide).values():
        values = coefficients.detach().numpy()
        parts = SparseHuffman().encode(values)
        assert np.array_equal(SparseHuffman().decode(parts), values)
    small = restored(wide).eval()
    assert torch.allclose(small(X), copy.deepcopy(wide).eval()(X), atol=1e-6)
    assert (
        small.conv1.weight.count_nonzero()
        > coefficients_of(wide)["conv1.parametrizations.weight.original"].count_nonzero()
    )
    made = fp.plan(small, X, importance=fp.importance.L2(), macs=0.7)
    assert made.macs[1] <= 0.7 * made.macs[0]


def test_pointwise_linear_depthwise_and_transformers() -> None:
    mobile = with_filter_bases(torchvision.models.mobilenet_v2(num_classes=5))
    assert all(min(one.shape[2:]) == 3 for one in coefficients_of(mobile).values())
    assert any(one.shape[1] == 1 for one in coefficients_of(mobile).values())  # depthwise kernels
    with pytest.raises(ModelError, match="larger than 1x1"):
        with_filter_bases(nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2)))


def test_what_cannot_be_done_is_one_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    with pytest.raises(UnknownNameError, match="did you mean 'layer'"):
        with_filter_bases(model, "layers")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="1 has no kernel"):
        with_filter_bases(model, names=["1"])
    with pytest.raises(UnknownNameError):
        with_filter_bases(model, names=["conv"])
    with pytest.raises(ModelError, match="0 is parametrized already"):
        with_filter_bases(with_filter_bases(model))
    with pytest.raises(FlowpruneError, match="no parameter"):
        mask_coefficients(model, {"2.weight": torch.ones(1) > 0})
