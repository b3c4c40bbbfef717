"""Equal channels become one for good: the smaller network computes what the larger one did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import flowprune as fp
from flowprune.errors import DataError, FlowpruneError
from flowprune.methods.decisions import CollidingChannels


class Doubled(nn.Module):
    """Channels 2 and 3 are 0 and 1 again; through a batch norm, a depthwise layer, an addition and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.wide, self.back = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6 * 4, 5)
        with torch.no_grad():
            for tensor in (*self.stem.parameters(), *self.depthwise.parameters(), *self.back.parameters()):
                tensor[2:4] = tensor[0:2]
            self.wide.weight[6:] = self.wide.weight[:2]
            self.wide.bias[6:] = self.wide.bias[:2]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(self.norm(self.stem(x))))
        x = torch.relu(x + self.back(torch.relu(self.wide(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def merged(model: nn.Module, batches: list[Tensor], **options: object) -> nn.Module:
    outcome = CollidingChannels(batches, **options)(model)  # type: ignore[arg-type]
    changed = Doubled().double().eval()
    changed.load_state_dict({**model.state_dict(), **outcome.weights})  # type: ignore[dict-item]
    return fp.prune(changed, fp.plan(changed, batches[0], outcome=outcome))


def test_equal_channels_leave_and_nothing_changes(tmp_path: Path):
    torch.manual_seed(0)
    model = Doubled().double().eval()
    batches = [torch.randn(4, 3, 8, 8, dtype=torch.float64) for _ in range(2)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = merged(model, batches)
    assert (small.stem.out_channels, small.depthwise.groups, small.wide.out_channels) == (4, 4, 6)
    assert small.head.in_features == 16
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    fp.save(small, tmp_path / "small.fp")
    assert torch.equal(fp.load(tmp_path / "small.fp", model=Doubled().double()).eval()(x), small(x))


def test_fewer_planes_merge_more_and_size_tells_apart():
    torch.manual_seed(0)
    model = Doubled().double().eval()
    with torch.no_grad():
        model.depthwise.weight[2] *= 4  # channel 2 is four times channel 0 behind it
        model.depthwise.bias[2] *= 4
        model.back.weight[[0, 2]] = 0
        model.back.bias[[0, 2]] = 0
    batches = [torch.randn(4, 3, 8, 8, dtype=torch.float64)]
    kept = [
        merged(model, batches, **o).stem.out_channels for o in ({}, {"scale": False}, {"planes": 1, "scale": False})
    ]
    assert kept[0] == 5 and kept[1] == 4 and kept[2] < 4


def test_what_cannot_be_merged_is_refused_in_one_line():
    grouped = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten())
    with pytest.raises(FlowpruneError, match="no layer of the model reads channels"):
        CollidingChannels([torch.randn(2, 2, 5, 5)])(grouped)
    with pytest.raises(DataError):
        CollidingChannels([])(grouped)
    with pytest.raises(FlowpruneError, match="planes=0"):
        CollidingChannels([], planes=0)
