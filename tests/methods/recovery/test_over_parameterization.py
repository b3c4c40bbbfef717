"""Fine-tuning in a wider network with the same function, and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError
from flowprune.methods.recovery import OverParameterization, similarity_preserving_loss

torch.set_num_threads(1)


def halved() -> tuple[nn.Module, fp.Plan, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).double().eval()  # fmt: skip
    plan = fp.plan(model, torch.zeros(1, 1, 8, 8).double(), importance=fp.importance.L2(), channels=0.5)
    return model, plan, fp.prune(model, plan)


def test_it_is_trained_wide_and_comes_back_as_it_was_built():
    model, plan, small = halved()
    method = OverParameterization(expansion=2, similarity=10)
    wide = method.prepare(small, model, plan, ())
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6)
    assert sum(p.numel() for p in wide.parameters()) > 2 * sum(p.numel() for p in small.parameters())
    outputs = wide.eval()(x)
    torch.testing.assert_close(outputs, small.eval()(x), rtol=0, atol=1e-12)
    wanted = sum(similarity_preserving_loss(small[: n + 1](x), model[: n + 1](x)) for n in (0, 3, 7)) * 10 / 3
    assert float(method.penalty(batch=(x, y), outputs=outputs).detach()) == pytest.approx(float(wanted.detach()))
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        outputs = wide(x)
        loss = nn.functional.cross_entropy(outputs, y) + method.penalty(batch=(x, y), outputs=outputs)
        loss.backward()
        optimizer.step()
    trained = wide(x)
    again = method.restored()
    assert repr(again) == repr(small) and not torch.allclose(again(x), small(x))
    torch.testing.assert_close(again(x), trained, rtol=0, atol=1e-12)
    assert not any(module._forward_hooks for module in (*again.modules(), *wide.modules()))


def test_without_distillation_it_adds_nothing_and_wrong_numbers_are_one_line():
    model, plan, small = halved()
    method = OverParameterization(layers=["3"])
    wide = method.prepare(small, model, plan, ())
    assert type(wide[0]) is nn.Conv2d and type(wide[3]) is not nn.Conv2d
    assert float(method.penalty()) == 0
    with pytest.raises(FlowpruneError, match="similarity=-1"):
        OverParameterization(similarity=-1)
    with pytest.raises(FlowpruneError, match="expansion"):
        OverParameterization(expansion=0.5).prepare(small, model, plan, ())
    with pytest.raises(FlowpruneError, match="no module"):
        OverParameterization(layers=["9"]).prepare(small, model, plan, ())
