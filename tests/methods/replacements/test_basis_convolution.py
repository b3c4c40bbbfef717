"""A convolution of coefficients and a basis: the plain one at the start, masked by its coefficients, plain again in the end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements import replace, restore
from flowprune.methods.replacements.basis_convolution import BasisConvolution


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 7, 7)),
        (nn.Conv2d(4, 8, 3, groups=2, padding_mode="reflect", padding=1), (2, 4, 7, 7)),
        (nn.Conv2d(4, 4, (3, 1), groups=4, dilation=2), (2, 4, 9, 9)),
        (nn.Conv1d(3, 5, 4), (2, 3, 11)),
        (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    ],
)
def test_it_is_the_plain_convolution_bit_for_bit_and_back(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    new = BasisConvolution().replace(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(new(x), layer(x))
    with torch.no_grad():
        new.kernels.basis.add_(0.1 * torch.randn(new.kernels.basis.shape, generator=torch.Generator().manual_seed(1)))
    plain = BasisConvolution().restore(new)
    assert type(plain) is type(layer)
    torch.testing.assert_close(plain(x), new(x))
    assert not torch.allclose(plain(x), layer(x))


def test_a_mask_takes_coefficients_which_a_training_holds_and_a_file_keeps(tmp_path: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(4, 3, 8, 8)
    sparse = fp.mask(replace(model, x[:1], replacement="filter_basis"), x[:1], weights=0.3)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.05)
    fp.hold(sparse, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        sparse(x).square().mean().backward()
        optimizer.step()
    weights = [sparse[0].weight, sparse[2].weight, sparse[4].weight]
    total = sum(one.numel() for one in weights)
    assert sum(int(one.count_nonzero()) for one in weights) == int(0.3 * total)
    assert not torch.equal(sparse[0].kernels.basis, torch.eye(9))
    plain = restore(sparse, replacement="filter_basis")
    torch.testing.assert_close(plain(x), sparse(x))
    assert plain[0].weight.count_nonzero() > sparse[0].weight.count_nonzero()


def test_effective_macs_are_those_of_the_basis_and_the_coefficients() -> None:
    layer = BasisConvolution().replace(nn.Conv2d(2, 64, 3))
    with pytest.raises(FlowpruneError, match="call the model first"):
        layer.effective_macs()
    layer(torch.zeros(1, 2, 5, 5))
    assert layer.effective_macs() == 9 * 2 * 64 * 9  # with nothing masked its kernels are cheaper
    with torch.no_grad():
        layer.weight[1:] = 0
        layer.weight[0] = 1
    assert layer.effective_macs() == 9 * (2 * 81 + 18)


def test_what_has_no_kernel_stays_plain_and_is_named() -> None:
    transformer = nn.TransformerEncoderLayer(8, 2, 16)
    assert not any(BasisConvolution().matches(one) for one in transformer.modules())
    with pytest.raises(ModelError, match="a Linear has no kernels"):
        BasisConvolution().replace(nn.Linear(3, 3))
    with pytest.raises(ModelError, match="1x1"):
        BasisConvolution().replace(nn.Conv2d(3, 3, 1))
