"""Channels averaged where a hash cannot tell them apart: the plain convolution where nothing meets, or only equals do."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import flowprune as fp
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements import restore
from flowprune.methods.replacements.channel_hashes import codes, sparse_planes
from flowprune.methods.replacements.hashed_convolution import HashedConvolution

METHOD = HashedConvolution()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (3, 4, 13, 9)),
        (nn.Conv2d(4, 8, 3, groups=2, padding_mode="reflect", padding=1), (2, 4, 7, 7)),
        (nn.Conv2d(4, 4, (3, 1), dilation=2), (4, 9, 9)),
        (nn.Conv1d(3, 5, 4, padding=2), (2, 3, 11)),
        (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    ],
)
@pytest.mark.parametrize("tile", [3, 8])
def test_it_is_the_plain_convolution_where_no_two_channels_meet(layer: nn.Module, shape: tuple[int, ...], tile: int):
    x, state = random(*shape), torch.get_rng_state()
    new = METHOD.replace(layer, planes=40, tile=tile)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(new(x), layer(x))
    plain = METHOD.restore(new)
    assert type(plain) is type(layer) and torch.equal(plain(x), layer(x))
    assert list(plain.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize("groups", [1, 2])
def test_equal_channels_are_one_and_the_result_is_exact(groups: int):
    layer = nn.Conv2d(8, 6, 3, padding=1, groups=groups)
    x = random(2, 4, 12, 12).relu().repeat_interleave(2, 1)
    new = METHOD.replace(layer, planes=24, tile=6)
    torch.testing.assert_close(new(x), layer(x), rtol=1e-5, atol=1e-5)
    left = 2 * 6 * 9 * 144 // groups  # a half of the products; hashes and sums come on top
    spent = 4 * 8 * (64 + int(new.planes.count_nonzero())) + 4 * 4 * (64 + 6 * 9 // groups)
    assert new.effective_macs() == 2 * left + spent
    assert groups > 1 or new.effective_macs() < fp.measure(layer, x).macs


def as_described(layer: nn.Conv2d, planes: Tensor, x: Tensor, tile: int) -> tuple[Tensor, int]:
    """HASTE bucket by bucket: the mean of the channels of each, and the sum of the filters' slices for them."""
    made, macs = torch.zeros_like(layer(x)), 0
    seen = functional.pad(x, [1, 1, 1, 1])
    for image, top, left in product(range(len(x)), range(0, made.shape[2], tile), range(0, made.shape[3], tile)):
        patch = seen[image, :, top : top + tile + 2, left : left + tile + 2]
        patch = functional.pad(patch, [0, tile + 2 - patch.shape[2], 0, tile + 2 - patch.shape[1]])
        buckets: dict[tuple[bool, ...], list[int]] = {}
        for channel in range(len(patch)):
            vector = patch[channel].flatten()
            sides = (planes.float() @ (vector - vector.mean()) > 0).tolist()
            buckets.setdefault(tuple(sides), []).append(channel)
        means = torch.stack([patch[own].mean(0) for own in buckets.values()])
        summed = torch.stack([layer.weight[:, own].sum(1) for own in buckets.values()], 1)
        part = functional.conv2d(means[None], summed, layer.bias)[0]
        place = made[image, :, top : top + tile, left : left + tile]
        place.copy_(part[:, : place.shape[1], : place.shape[2]])
        macs += summed.numel() * place[0].numel() + len(patch) * (patch[0].numel() + int(planes.count_nonzero()))
        macs += (len(patch) - len(buckets)) * (patch[0].numel() + layer.weight[:, 0].numel())
    return made, round(macs / len(x))


@torch.no_grad()
def test_it_is_what_averages_and_summed_filters_give_and_counts_what_they_cost():
    layer, x = nn.Conv2d(12, 5, 3, padding=1), random(2, 12, 10, 10)
    new = METHOD.replace(layer, planes=3, tile=4)
    wanted, macs = as_described(layer, new.planes, x, 4)
    torch.testing.assert_close(new(x), wanted)
    assert not torch.allclose(wanted, layer(x), atol=0.1)
    assert new.effective_macs() == macs
    assert fp.measure(new, x).effective_macs == macs  # on the very images, whose buckets are theirs alone
    assert fp.measure(new, x * 0).effective_macs < macs


def test_a_hash_of_signs_does_not_see_size_and_one_with_scale_does():
    planes = sparse_planes(30, 25, seed=3)
    x = random(6, 25)
    assert torch.equal(codes(x, planes), codes(3 * x + 1, planes))
    assert len(codes(x, planes).unique()) == 6
    assert not (codes(x, planes, scale=True) == codes(3 * x, planes, scale=True)).any()
    assert torch.equal(codes(x, planes, scale=True), codes(x.clone(), planes, scale=True))
    assert 0.25 < float((sparse_planes(40, 1000, 0) != 0).float().mean()) < 0.42
    zero = torch.zeros(2, 25)
    assert torch.equal(codes(zero, planes, scale=True), codes(-zero, planes, scale=True))


def test_a_network_is_saved_loaded_exported_and_put_back(tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten())
    model.append(nn.Linear(4 * 36, 5)).eval()
    x = random(2, 3, 8, 8)
    hashed = fp.replace(model, x, replacement="hashed_convolution", planes=4, tile=4, names=["2"])
    assert type(hashed[2]).__name__ == "HashedConv2d" and type(hashed[0]) is nn.Conv2d
    assert (
        fp.measure(hashed, x).effective_macs == fp.measure(model, x).macs - 4 * 3 * 9 * 36 + hashed[2].effective_macs()
    )
    fp.save(hashed, tmp_path / "hashed.fp")
    again = fp.load(tmp_path / "hashed.fp", model=model).eval()
    assert torch.equal(again(x), hashed(x))
    assert fp.export(hashed, x, tmp_path / "hashed.onnx").largest_difference < 1e-4
    assert torch.equal(restore(hashed, replacement="hashed_convolution")(x), model(x))
    hashed(x).sum().backward()
    assert all(parameter.grad is not None for parameter in hashed.parameters())


def test_what_has_nothing_to_merge_is_left_alone_and_named():
    transformer = nn.TransformerEncoderLayer(8, 2, 16)
    assert not any(METHOD.matches(one) for one in transformer.modules())
    for layer, said in ((nn.Linear(3, 3), "a Linear has no tiles"), (nn.Conv2d(4, 4, 3, groups=4), "one channel each")):
        with pytest.raises(ModelError, match=said):
            METHOD.replace(layer)
    for wrong in ({"planes": 0}, {"planes": 41}, {"tile": 0}, {"tile": 1}):
        with pytest.raises(FlowpruneError):
            METHOD.replace(nn.Conv2d(2, 2, 1), **wrong)
    hashed = nn.Sequential(METHOD.replace(nn.Conv2d(4, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with pytest.raises(fp.FlowpruneError) as raised:
        fp.plan(hashed, torch.zeros(1, 4, 9, 9), importance=fp.importance.L2(), macs=0.3)
    assert "what stays: " in str(raised.value) and "\n" not in str(raised.value)  # tiles are no channels
