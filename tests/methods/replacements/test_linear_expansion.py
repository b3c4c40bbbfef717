"""Linear over-parameterization: the same function before, after, and after training; the authors' contractions."""

from __future__ import annotations

import copy

import pytest
import torch
from fixtures import fixture
from torch import nn

from flowprune.engine.interfaces import Replacement
from flowprune.engine.measuring import measure
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements import (
    REGISTRY,
    ExpandedLayer,
    LinearExpansion,
    contract,
    replace_modules,
    restore_modules,
)

torch.set_num_threads(1)

LAYERS = {
    "plain": lambda: nn.Conv2d(3, 5, 3),
    "strided, padded": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "1x1 without bias": lambda: nn.Conv2d(4, 3, 1, bias=False),
    "oblong, dilated": lambda: nn.Conv2d(2, 3, (1, 3), padding=(0, 2), dilation=(1, 2)),
    "same, reflected": lambda: nn.Conv2d(3, 4, 5, padding="same", padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "one dimension": lambda: nn.Conv1d(3, 4, 3, padding=1),
    "three dimensions": lambda: nn.Conv3d(2, 3, 3, padding=1),
    "linear": lambda: nn.Linear(6, 4),
    "linear without bias": lambda: nn.Linear(6, 2, bias=False),
}


def example(layer: nn.Module) -> torch.Tensor:
    shape = (
        (layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, *[7] * (layer.weight.dim() - 2))
    )
    return torch.randn(2, *shape, dtype=layer.weight.dtype)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


@pytest.mark.parametrize("start", ["semi_orthogonal", "random"])
@pytest.mark.parametrize("expansion", [1, 2.5])
@pytest.mark.parametrize("name", LAYERS)
def test_the_function_stays_from_expansion_to_contraction(name: str, expansion: float, start: str):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    before = copy.deepcopy(layer.state_dict())
    method, x = LinearExpansion(), example(layer)
    assert method.matches(layer) and isinstance(method, Replacement)
    state = torch.random.get_rng_state()
    expanded = method.replace(layer, expansion=expansion, start=start)
    plain = method.restore(expanded)
    assert torch.equal(torch.random.get_rng_state(), state)
    wanted = layer(x)
    torch.testing.assert_close(expanded(x), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(plain(x), wanted, rtol=0, atol=1e-12)
    assert type(plain) is type(layer) and repr(plain) == repr(layer)
    assert all(torch.equal(value, layer.state_dict()[key]) for key, value in before.items())
    if not isinstance(layer, nn.Linear):
        assert expanded.effective_macs() == measure(layer, x[:1]).macs
        assert expanded.first.weight.shape[0] >= layer.in_channels
    else:
        assert expanded.effective_macs() == layer.weight.numel()


def test_factors_are_semi_orthogonal_in_every_group():
    layer = nn.Conv2d(6, 4, 3, groups=2).double()
    expanded = LinearExpansion().replace(layer, expansion=3)
    first = expanded.first.weight.detach().reshape(2, 9, 3)
    last = expanded.last.weight.detach().reshape(2, 2, 6)
    torch.testing.assert_close(first.mT @ first, torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(last @ last.mT, torch.eye(2).double().expand(2, 2, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_trained_network_contracts_to_the_same_function(dtype: torch.dtype, tolerance: float):
    small = network().to(dtype)
    method = LinearExpansion()
    wide = replace_modules(small, method, expansion=2)
    assert sum(isinstance(module, ExpandedLayer) for module in wide.modules()) == 4
    assert sum(isinstance(module, ExpandedLayer) for module in small.modules()) == 0
    x, y = torch.randn(16, 3, 8, 8, dtype=dtype), torch.arange(16) % 5
    small.eval(), wide.eval()
    scale = float(small(x).detach().abs().max())
    assert float((wide(x) - small(x)).detach().abs().max()) <= tolerance * scale
    wide.train()
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(wide(x), y).backward()
        optimizer.step()
    wide.eval()
    plain = restore_modules(wide, method)
    logits = wide(x).detach()
    assert float((plain(x) - logits).detach().abs().max()) <= tolerance * float(logits.abs().max())
    assert float((small(x) - logits).detach().abs().max()) > 0.01 * scale  # it did learn something
    assert repr(plain) == repr(small)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in small.parameters())
    assert not any(module.training for module in plain.modules())


def tensor(numbers: list | None) -> torch.Tensor | None:
    return None if numbers is None else torch.tensor(numbers, dtype=torch.float64)


def test_contractions_are_those_of_the_authors():
    case = fixture("expandnets-contraction")
    given, expected = case["inputs"], case["outputs"]
    for layers, result in zip(given["cl"], expected["cl"], strict=True):
        weight, bias = contract(
            [(tensor(layers[name]), tensor(layers[f"{name}_bias"])) for name in ("P1", "core", "P3")]
        )
        torch.testing.assert_close(weight, tensor(result["weight"]), rtol=0, atol=1e-12)
        if result["bias"] is None:
            assert bias is None
        else:
            torch.testing.assert_close(bias, tensor(result["bias"]), rtol=0, atol=1e-12)
    for name in ("ck", "fc"):
        two = given[name]
        weight, bias = contract([(tensor(two["W1"]), tensor(two["b1"])), (tensor(two["W2"]), tensor(two["b2"]))])
        torch.testing.assert_close(weight, tensor(expected[name]["weight"]), rtol=0, atol=1e-12)
        torch.testing.assert_close(bias, tensor(expected[name]["bias"]), rtol=0, atol=1e-12)


def test_padding_behind_a_bias_is_wrong_at_the_borders_so_ours_has_none_there():
    case = fixture("expandnets-contraction")
    layers, result = case["inputs"]["cl"][0], case["outputs"]["cl"][0]
    x = tensor(layers["x"])
    steps = [(tensor(layers[name]), tensor(layers[f"{name}_bias"])) for name in ("P1", "core", "P3")]
    weight, bias = contract(steps)
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias), tensor(result["y"]), rtol=0, atol=1e-12)
    padded = nn.functional.conv2d(nn.functional.conv2d(x, *steps[0]), *steps[1], padding=1)
    padded = nn.functional.conv2d(padded, *steps[2])
    error = float((padded - nn.functional.conv2d(x, weight, bias, padding=1)).abs().max())
    assert error == pytest.approx(result["padding_on_core_max_error"], abs=1e-9)
    expanded = LinearExpansion().replace(nn.Conv2d(3, 4, 3, padding=1))
    assert expanded.first.bias is None and expanded.core.bias is None and expanded.last.bias is not None


def test_a_bias_of_the_first_layer_alone_counts():
    """The authors' program drops it (case): what ours gives is what the two layers give."""
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 3, bias=False).double()
    weight, bias = contract([(first.weight, first.bias), (second.weight, None)])
    x = torch.randn(5, 4).double()
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), second(first(x)), rtol=0, atol=1e-12)


def test_grouped_kernels_of_any_size_contract():
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 6, 3, groups=2).double(), nn.Conv2d(6, 8, (1, 3), groups=2).double()
    weight, bias = contract([(first.weight, first.bias), (second.weight, second.bias)], groups=2)
    x = torch.randn(2, 4, 9, 9).double()
    wanted = second(first(x))
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias, groups=2), wanted, rtol=0, atol=1e-12)
    with pytest.raises(FlowpruneError, match="does not read"):
        contract([(first.weight, None), (second.weight, None)])
    with pytest.raises(FlowpruneError, match="no layer to contract"):
        contract([])


def test_frozen_layers_and_modules_in_two_places_stay_so():
    model = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Identity()})
    model["two"] = model["one"]
    model["one"].weight.requires_grad_(False)
    wide = replace_modules(model, LinearExpansion())
    assert wide["one"] is wide["two"] and isinstance(wide["one"], ExpandedLayer)
    assert (
        not any(layer.weight.requires_grad for layer in wide["one"].children()) and wide["one"].last.bias.requires_grad
    )
    plain = restore_modules(wide, LinearExpansion())
    assert plain["one"] is plain["two"] and not plain["one"].weight.requires_grad
    alone = replace_modules(nn.Linear(3, 2), LinearExpansion())
    assert isinstance(alone, ExpandedLayer) and type(restore_modules(alone, LinearExpansion())) is nn.Linear


def test_a_transformer_trains_on_expanded_layers_where_its_attention_reads_weights_itself():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True).double().train()
    wide = replace_modules(encoder, LinearExpansion())
    assert isinstance(wide.linear1, ExpandedLayer) and not isinstance(wide.self_attn.out_proj, ExpandedLayer)
    x = torch.randn(2, 5, 8).double()
    torch.testing.assert_close(wide(x), encoder(x), rtol=0, atol=1e-11)
    assert wide.linear1.effective_macs() == 5 * 8 * 16


def test_what_cannot_be_expanded_is_named_in_one_line():
    method = LinearExpansion()
    with pytest.raises(ModelError, match=r"^1: a BatchNorm2d cannot be expanded"):
        replace_modules(network(), method, names=["1"])
    with pytest.raises(FlowpruneError, match="no module '44'"):
        replace_modules(network(), method, names=["44"])
    with pytest.raises(FlowpruneError, match="no module that LinearExpansion can replace"):
        replace_modules(nn.ReLU(), method)
    broken = network()
    broken[9].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"^9: a Linear with NaN or infinite"):
        replace_modules(broken, method, names=["9"])
    for model, words in (
        (nn.Linear(2, 2).half(), "float32 or float64"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "ParametrizedLinear cannot be expanded"),
    ):
        assert not method.matches(model)
        with pytest.raises(ModelError, match=words):
            method.replace(model)
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match="hooks"):
        method.replace(hooked)
    tied = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match="1 shares a parameter with 0"):
        replace_modules(tied, method)
    with pytest.raises(FlowpruneError, match=r"expansion=0\.5"):
        method.replace(nn.Linear(2, 2), expansion=0.5)
    with pytest.raises(FlowpruneError, match="start='zeros'"):
        method.replace(nn.Linear(2, 2), start="zeros")
    with pytest.raises(FlowpruneError, match="call the model on an input first"):
        method.replace(nn.Linear(2, 2)).effective_macs()


def test_it_is_known_by_name_and_leaves_other_modules_alone():
    assert REGISTRY["linear_expansion"] is LinearExpansion
    assert LinearExpansion().restore(nn.Linear(2, 2)) is None
