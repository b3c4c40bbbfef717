"""Running statistics estimated anew: those that one computes by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowprune.errors import DataError, ModelError
from flowprune.methods.recovery import BatchNorm

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, track_running_stats=False),
    ).double()  # fmt: skip


def images(count: int) -> torch.Tensor:
    return 3 + 2 * torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def test_statistics_are_those_by_hand_over_batches_of_any_size():
    model = network()
    batches = [images(7), images(2), images(16)]
    method = BatchNorm()
    method.prepare(model, model, None, [(batch, torch.zeros(len(batch))) for batch in batches])
    assert method.estimated == ("0", "2")
    all_images = torch.cat(batches).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[0].running_mean, all_images.mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(model[0].running_var, all_images.var(1), rtol=0, atol=1e-12)
    # Behind the first norm each batch is normalised by its own statistics.
    with torch.no_grad():
        seen = torch.cat([model[1](nn.functional.batch_norm(b, None, None, training=True)) for b in batches])
    seen = seen.transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[2].running_mean, seen.mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(model[2].running_var, seen.var(1), rtol=0, atol=1e-12)


def test_one_batch_gives_what_torch_gives_and_nothing_else_changes():
    model, reference = network().train(), network().train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for norm in (reference[0], reference[2]):
        norm.momentum = 1.0
    reference(images(9))
    BatchNorm().prepare(model, model, None, [images(9)])
    for key, value in model.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(value, reference.state_dict()[key], rtol=0, atol=1e-12)
        else:
            assert torch.equal(value, before[key]), key
    assert model.training and model[0].training and not model[2].training and model[2].momentum is None
    assert not any(module._forward_pre_hooks for module in model)


def test_what_is_wrong_is_one_line_and_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(DataError, match="one number a channel"):
        BatchNorm().prepare(model, model, None, [torch.ones(4, 3), torch.ones(1, 3)])
    with pytest.raises(DataError, match="no batch"):
        BatchNorm().prepare(model, model, None, [])
    with pytest.raises(ModelError, match="NaN"):
        BatchNorm().prepare(model, model, None, [torch.full((4, 3), float("nan"))])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
