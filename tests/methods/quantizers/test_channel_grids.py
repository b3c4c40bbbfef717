"""Filters on grids of their own bits, activations by PACT, and how both are stored: as the authors' code, exact to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures import double, fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError
from flowprune.methods.codecs import ChannelBits
from flowprune.methods.codecs.stored_model import stored_model
from flowprune.methods.quantizers import MixedPrecision
from flowprune.methods.quantizers._channelwise.min_max import mixed, on_grid, scales
from flowprune.methods.quantizers._channelwise.pact import HALF, clipped, step_of


def test_weights_land_where_the_authors_put_them() -> None:
    case = fixture("PLiNIO-minmax-weights")
    weight = double(case["inputs"]["weight"])
    for bits in case["inputs"]["precisions"]:
        assert torch.allclose(on_grid(weight, bits), double(case["outputs"][f"{bits}bit"]), rtol=0, atol=1e-12)
        if bits:
            theirs = double(case["outputs"][f"{bits}bit_scale"])
            assert torch.allclose(scales(weight, bits).flatten(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("hard", [False, True])
def test_the_mixture_and_its_gradient_are_the_authors(temperature: float, hard: bool) -> None:
    case = fixture("PLiNIO-effective-weight")
    weight, precisions = double(case["inputs"]["weight"]), case["inputs"]["precisions"]
    logits = double(case["inputs"]["alpha"]).requires_grad_()
    expected = case["outputs"]["cases"][f"T{temperature:g}" + ("_hard" if hard else "")]
    shares = torch.softmax(logits / temperature, 0)
    if hard:
        shares = nn.functional.one_hot(shares.argmax(0), len(precisions)).T.to(shares)
    assert torch.allclose(shares.detach(), double(expected["theta"]), atol=1e-6)
    found = mixed(weight, shares, precisions)
    assert torch.allclose(found.detach(), double(expected["effective_weight"]), atol=1e-6)
    assert float((1 - shares[0].detach()).sum()) == pytest.approx(expected["out_features_eff"], rel=1e-6)
    if temperature == 1 and not hard:
        found.backward(double(case["inputs"]["grad_output"]))
        assert torch.allclose(logits.grad, double(case["outputs"]["alpha_grad_T1_soft"]), atol=1e-5)


def test_activations_and_their_gradients_are_the_authors() -> None:
    case = fixture("PLiNIO-pact-activations")
    for bits in case["inputs"]["precisions"]:
        x = double(case["inputs"]["x"]).requires_grad_()
        clip = torch.tensor([case["inputs"]["clip"]], dtype=torch.float64, requires_grad=True)
        found = clipped(x, clip, bits)
        assert torch.allclose(found.detach(), double(case["outputs"]["y"][f"{bits}bit"]), atol=1e-6)
        found.backward(double(case["inputs"]["grad_output"]))
        gradients = case["outputs"]["grads"][f"{bits}bit"]
        assert torch.allclose(x.grad, double(gradients["input"]), atol=1e-6)
        assert torch.allclose(clip.grad, double(gradients["clip"]), atol=1e-5)


@given(st.integers(2, 8), st.floats(0.05, 20), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_pacts_floor_is_onnx_rounding_with_the_shift(bits: int, clip: float, seed: int) -> None:
    bound = torch.tensor([clip], dtype=torch.float64)
    x = 1.5 * clip * torch.randn(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step = step_of(bound, bits)
    whole = torch.arange(2**bits - 1, dtype=torch.float64) * step  # on the levels themselves
    held = torch.cat([x, whole]).clamp(0, clip)
    rounded = torch.round((held - HALF * step) / step).clamp(0, 255) * step
    floored = torch.floor(held / step + 1e-9) * step
    near_the_next = (held / step + 2.0**-15).floor() > (held / step + 1e-9).floor()
    assert torch.equal(rounded[~near_the_next], floored[~near_the_next])
    assert torch.allclose(clipped(x, bound, bits), floored[:200])


@given(st.lists(st.sampled_from([0, 2, 3, 4, 8]), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_grids_are_stored_in_their_bits_and_come_back(bits: list[int], columns: int, seed: int) -> None:
    weight = torch.randn(len(bits), columns, generator=torch.Generator().manual_seed(seed))
    values = MixedPrecision().fit({"w": weight}, bits={"w": bits}).dequantize()["w"].numpy()
    codec = ChannelBits(bits=bits)
    assert codec.fits(values)
    parts = codec.encode(values)
    back = codec.decode(parts)
    assert back.dtype == values.dtype and back.tobytes() == values.tobytes()
    assert codec.level_bits(parts) == sum(bits) * columns == codec.bits(parts) - 32 * len(bits)
    assert parts.arrays["levels"].nbytes == -(-sum(bits) * columns // 8)


def test_a_network_on_grids_is_saved_in_its_bits_and_loads_bit_for_bit(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    inputs = torch.randn(2, 3, 4, 4)
    bits = {"0.weight": [2, 4, 8, 2, 0, 8], "3.weight": [4] * 5}
    few = fp.quantize(model, inputs, quantizer="mixed_precision", codec="channel_bits", bits=bits)
    stored = stored_model(few)
    levels = sum(tensor.nbytes for name, tensor in stored.tensors.items() if name.startswith("code:levels:"))
    assert levels == -(-24 * 27 // 8) + 20 * 24 // 8
    assert stored.size == levels + 4 * (6 + 5) + 4 * (6 + 5)  # scales and biases
    fp.save(few, tmp_path / "few.fp")
    loaded = fp.load(tmp_path / "few.fp", model=model)
    assert all(torch.equal(one, few.state_dict()[name]) for name, one in loaded.state_dict().items())
    with torch.no_grad():
        loaded[0].weight.mul_(1.01).add_(1e-3)
    assert stored_model(loaded).tensors["0.weight"].shape == (6, 3, 3, 3)  # trained on, they are on no grid


@pytest.mark.parametrize("bits", [1, 9, -2, True, {"w": [2]}, {}])
def test_numbers_that_are_none_of_bits_are_one_line(bits) -> None:
    with pytest.raises(FlowpruneError) as raised:
        MixedPrecision().fit({"w": torch.ones(2, 3)}, bits=bits)
    assert "\n" not in str(raised.value) and "bits" in str(raised.value)


def test_what_lies_on_no_grid_is_refused_by_the_codec() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    assert not ChannelBits().fits(rows)
    with pytest.raises(FlowpruneError, match="quantize by mixed_precision first"):
        ChannelBits().encode(rows)
