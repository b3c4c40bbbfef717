"""A convolution as branches: the masked function, training, saving, export, and the authors' published networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import flowprune as fp
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements.branched_convolution import BranchedConvolution, branched, with_branches


class Placed(nn.Module):
    """Puts channels at places of a wider stream."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("places", torch.arange(channels))
        self.places: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros((x.shape[0], self.width, *x.shape[2:])).index_add(1, self.places, x)


class Silent(nn.Module):
    """A branch of a block of which nothing is left."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1, :: self.stride, :: self.stride].mul(0).expand(-1, self.width, -1, -1)


def convolution(shapes: list[list[int]], channels: int, stride: int) -> tuple[nn.Module, int]:
    """A branched convolution of such branches, compact: its filters are those that are made."""
    made = sum(out for _, out in shapes)
    starts = [sum(out for _, out in shapes[:number]) for number in range(len(shapes))]
    branches = [(range(reads), range(start, start + out)) for start, (reads, out) in zip(starts, shapes, strict=True)]
    return BranchedConvolution(branches, channels=channels, filters=made, kernel_size=3, stride=stride, padding=1), made


@pytest.mark.parametrize("name", [f"resnet{depth}_g{groups}" for depth in (20, 56) for groups in (2, 3, 4)])
def test_the_authors_networks_have_their_macs_and_parameters_by_our_counter(name: str) -> None:
    case = fixture("dsp-published-checkpoints")
    theirs, depth = case["outputs"]["models"][name], name[6:8]
    model: Any = fp.models.create(f"resnet{depth}", shortcut="B")
    dense = fp.measure(model, torch.zeros(1, 3, 32, 32))
    assert (dense.macs, dense.params) == (
        case["outputs"]["dense"][depth]["macs_all"],
        case["outputs"]["dense"][depth]["par_all"],
    )
    for stage in (1, 2, 3):
        for number, block in enumerate(getattr(model, f"layer{stage}")):
            shapes = [theirs["branches"].get(f"stage_{stage}.{number}.{which}", []) for which in "ab"]
            width, stride = block.conv2.out_channels, block.conv1.stride[0]
            if not all(shapes):
                block.conv1, block.bn1, block.bn2 = nn.Identity(), nn.Identity(), nn.Identity()
                block.conv2 = Silent(width, stride)
                continue
            block.conv1, made = convolution(shapes[0], block.conv1.in_channels, stride)
            block.bn1 = nn.BatchNorm2d(made)
            block.conv2, ends = convolution(shapes[1], made, 1)
            block.bn2 = nn.Sequential(nn.BatchNorm2d(ends), Placed(ends, width))
    found = fp.measure(model, torch.zeros(1, 3, 32, 32))
    assert (found.macs, found.params) == (theirs["macs_all"], theirs["par_all"])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 2), st.booleans(), st.integers(0, 99)
)
def test_branches_are_the_masked_convolution(
    filters: int, channels: int, kernel: int, stride: int, bias: bool, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(channels, filters, kernel, stride=stride, padding=kernel // 2, bias=bias).double()
    mask = torch.rand(filters, channels, generator=draws) > 0.5
    if not mask.any():
        with pytest.raises(ModelError, match="no kernel"):
            branched(layer, mask)
        return
    layer.weight.data.mul_(mask[:, :, None, None])
    made = branched(layer, mask)
    x = torch.randn(2, channels, 7, 7, dtype=torch.float64, generator=draws)
    torch.testing.assert_close(made(x), layer(x), atol=1e-12, rtol=0)
    assert torch.equal(made.dense_weight(), layer.weight)
    assert sum(one.weight.numel() for one in made.convolutions) == int(mask.sum()) * kernel**2


def test_a_packed_network_trains_saves_and_exports_and_is_the_masked_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = fp.models.create("resnet8", shortcut="B").eval()
    masks = {}
    for name, parameter in model.named_parameters():
        if ".conv" in name:
            rows = torch.rand(2, parameter.shape[1]) > 0.5
            rows[:, 0] = True
            mask = rows[torch.arange(parameter.shape[0]) % 2][:, :, None, None].expand(parameter.shape)
            parameter.data.mul_(mask)
            masks[name] = mask
    packed = with_branches(model, masks)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(packed(x), model(x), atol=1e-5, rtol=0)
    assert fp.measure(packed, x[:1]).macs < 0.8 * fp.measure(model, x[:1]).macs
    fp.export(packed, x, tmp_path / "small.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    said = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(said, packed(x).detach(), atol=1e-4, rtol=1e-4)
    again = with_branches(model, masks)
    again.load_state_dict(packed.state_dict())
    packed.train()
    optimizer = torch.optim.SGD(packed.parameters(), lr=0.1)
    first = nn.functional.cross_entropy(packed(x), torch.arange(4))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(packed(x), torch.arange(4)).backward()
        optimizer.step()
    assert nn.functional.cross_entropy(packed(x), torch.arange(4)) < first


def test_what_cannot_be_branches_is_one_line() -> None:
    with pytest.raises(ModelError, match="one group"):
        branched(nn.Conv2d(4, 4, 3, groups=2), torch.ones(4, 2) > 0)
    for branches in ([([0], [0]), ([0], [0])], [([0], [])], [([5], [0])], []):
        with pytest.raises(FlowpruneError, match="branch"):
            BranchedConvolution(branches, channels=2, filters=2, kernel_size=1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="shortcut"):
        fp.models.create("resnet8", shortcut="C")
