"""Sparsity and dead filters against the definitions, written out naively."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flowprune.engine.measuring import dead_filters, filter_scales, sparsity
from flowprune.engine.tracing import filter_layers
from flowprune.errors import DataError, ModelError
from flowprune.models import create

X = torch.zeros(1, 3, 32, 32)


def worn(name: str, seed: int = 0) -> nn.Module:
    """A network with spread-out gammas and variances, some filters wholly dead, some weights zero."""
    model = create(name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                exponents = torch.rand(module.num_features, generator=generator) * 6 - 5
                module.weight.copy_(10**exponents * torch.where(exponents > -2, 1.0, -1.0))
                module.running_var.copy_(10 ** (torch.rand(module.num_features, generator=generator) * 8 - 8))
            elif isinstance(module, nn.Conv2d):
                module.weight[torch.rand(module.weight.shape, generator=generator) < 0.1] = 0
    return model


def pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module | None]]:
    """Each convolution or linear layer with the batch norm registered right after it, by the order of definition."""
    leaves = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d))]
    by_size = []
    norms = [m for m in leaves if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm1d))]
    for layer in (m for m in leaves if isinstance(m, (nn.Conv2d, nn.Linear))):
        by_size.append((layer, norms[len(by_size)] if len(by_size) < len(norms) else None))
    return by_size


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_sparsity_is_the_share_of_negligible_weights(name):
    model = worn(name)
    effective, raw = [], []
    for layer, norm in pairs(model):
        weight = layer.weight.detach().double().numpy()
        raw.append(np.abs(weight).ravel())
        if norm is not None:
            factor = norm.weight.detach().double().numpy() / np.sqrt(norm.running_var.double().numpy() + norm.eps)
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        effective.append(np.abs(weight).ravel())
    found = sparsity(model, X)
    for got, parts in ((found.effective, effective), (found.raw, raw)):
        everything = np.concatenate(parts)
        assert got == pytest.approx((everything < 1e-3 * np.percentile(everything, 90)).mean(), abs=1e-12)
    assert found.effective > found.raw > 0
    assert found.zeros == pytest.approx((np.concatenate(raw) == 0).mean(), abs=1e-12)
    assert found.weights == sum(part.size for part in raw) == sum(row.weights for row in found.layers)
    assert sum(row.weights * row.effective for row in found.layers) / found.weights == pytest.approx(found.effective)


@pytest.mark.parametrize(("name", "filters"), [("resnet20", 688), ("vgg16", 4224)])
def test_dead_filters_are_counted_against_the_whole_network(name, filters):
    model = worn(name)
    scales = []
    for layer, norm in pairs(model):
        if isinstance(layer, nn.Conv2d):
            gamma, var = norm.weight.detach().double().numpy(), norm.running_var.double().numpy()
            scales.append(np.abs(gamma) * np.sqrt(var / (var + norm.eps)))
    everything = np.concatenate(scales)
    reference = np.percentile(everything, 90)
    found = dead_filters(model, X)
    assert found.filters == filters == everything.size
    assert found.reference == pytest.approx(reference, rel=1e-12)
    assert found.by_threshold == {t: int((everything < t * reference).sum()) for t in (1e-1, 1e-2, 1e-3, 1e-4)}
    assert found.dead == found.by_threshold[1e-2] == found.dead_branch_ends + found.dead_inside
    assert [row.dead for row in found.layers] == [int((s < 1e-2 * reference).sum()) for s in scales]
    assert 0 < found.dead < filters


def test_branch_ends_are_the_second_convolutions_of_residual_blocks():
    rows = dead_filters(create("resnet20"), X).layers
    assert [row.layer for row in rows if row.branch_end] == [r.layer for r in rows if r.layer.endswith("conv2")]
    assert not any(row.branch_end for row in dead_filters(create("vgg16"), X).layers)


def test_a_wholly_dead_layer_is_seen():
    model = create("resnet20")
    with torch.no_grad():
        model.get_submodule("layer1.1.bn2").weight.zero_()
        model.get_submodule("layer1.1.bn2").bias.zero_()
    found = dead_filters(model, X)
    assert found.dead == found.dead_branch_ends == 16
    assert sparsity(model, X).effective >= 16 * 16 * 9 / sparsity(model, X).weights


def test_networks_that_are_almost_all_zero_are_sparse():
    model = create("resnet20")
    with torch.no_grad():
        for layer, _ in pairs(model):
            layer.weight.zero_()
    found = sparsity(model, X)
    assert found.effective == found.raw == found.zeros == 1.0


class Unnormalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(4, 6, 1)

    def forward(self, x):
        y = self.first(x).relu()
        return self.norm(self.second(y)) + self.third(y)


def test_without_a_batch_norm_data_tells():
    torch.manual_seed(0)
    model = Unnormalized().double()
    with torch.no_grad():
        model.first.weight[1] *= 1e-5
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    blind = dead_filters(model, x)
    assert [(row.layer, row.measured) for row in blind.layers] == [("first", False), ("second", True), ("third", False)]
    assert blind.dead == 0 and blind.filters == 16
    found = filter_scales(model, x, (part for part in x.split([4, 2])))
    scales = {layer.name: scale for layer, scale in found.items()}
    first = model.first(x).detach()
    expected = first.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(scales["first"], expected, rtol=1e-10, atol=0)
    third = model.third(first.relu()).detach().transpose(0, 1).flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(scales["third"], third, rtol=1e-10, atol=0)
    seeing = dead_filters(model, x, [(x, None)])
    assert [row.dead for row in seeing.layers] == [1, 0, 0]
    with pytest.raises(DataError, match="no batch"):
        filter_scales(model, x, [])


def test_the_batch_norm_is_found_by_what_runs_not_by_names():
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_norm = nn.BatchNorm2d(4)
            self.z_conv = nn.Conv2d(3, 4, 1)
            self.b_conv = nn.Conv2d(4, 4, 1)
            self.c_norm = nn.BatchNorm2d(4, eps=1e-3)

        def forward(self, x):
            return self.a_norm(self.b_conv(self.c_norm(self.z_conv(x)).relu()))

    first, second = filter_layers(Shuffled(), X)
    assert (first.name, first.norm.running_var, first.norm.eps) == ("z_conv", "c_norm.running_var", 1e-3)
    assert (second.name, second.norm.weight) == ("b_conv", "a_norm.weight")


def test_an_output_read_by_more_than_its_batch_norm_counts_as_not_normalised():
    class Bypass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    (layer,) = filter_layers(Bypass(), X)
    assert layer.norm is None


def test_transposed_convolutions_fold_along_their_own_dimension():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.0, 1, 2, 0, 0, 5]))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert sparsity(model, x).effective == pytest.approx(0.5)
    assert dead_filters(model, x).dead == 3


def test_nan_is_refused_by_name():
    model = create("resnet20")
    with torch.no_grad():
        model.get_submodule("layer2.0.conv1").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"layer2\.0\.conv1\.weight"):
        sparsity(model, X)
    with torch.no_grad():
        model.get_submodule("layer2.0.bn1").running_var[0] = float("inf")
    with pytest.raises(ModelError, match=r"layer2\.0\.bn1\.running_var"):
        dead_filters(model, X)


def test_measuring_leaves_the_model_alone():
    model = create("resnet20").train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    sparsity(model, X)
    dead_filters(model, X, [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
