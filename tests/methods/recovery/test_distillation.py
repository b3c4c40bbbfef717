"""What the dense network teaches the small one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import flowprune as fp
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.recovery import Distillation, similarity_preserving_loss

torch.set_num_threads(1)


def halved() -> tuple[nn.Module, fp.Plan, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).eval()  # fmt: skip
    plan = fp.plan(model, torch.zeros(1, 1, 8, 8), importance=fp.importance.L2(), channels=0.5)
    return model, plan, fp.prune(model, plan)


def test_logits_are_compared_as_published():
    model, plan, small = (part.double() if isinstance(part, nn.Module) else part for part in halved())
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    method = Distillation(temperature=3, logits=0.5)
    trainable = method.prepare(small, model, plan, ())
    outputs = trainable(x)
    loss = method.penalty(batch=(x, y), outputs=outputs)
    student, teacher = torch.softmax(outputs / 3, 1), torch.softmax(model(x) / 3, 1)
    wanted = 0.5 * 9 * (teacher * (teacher.log() - student.log())).sum(1).mean()
    assert loss.dim() == 0 and float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-9)
    loss.backward()
    assert all(p.grad is None for p in model.parameters()) and small[0].weight.grad is not None
    assert method.restored() is small
    same = method.penalty(batch=(x, y), outputs=model(x))
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)


def test_features_are_compared_in_the_channels_that_are_left():
    model, plan, small = halved()
    small.eval()
    x, y = torch.randn(6, 1, 8, 8), torch.zeros(6, dtype=torch.long)
    first = Distillation(logits=0, features=1, layers=["0"])  # reads all its inputs, so it says what it said
    outputs = first.prepare(small, model, plan, ())(x)
    assert float(first.penalty(batch=(x, y), outputs=outputs).detach()) == pytest.approx(0, abs=1e-10)
    first.close()
    for likeness in ("values", "similarity"):
        second = Distillation(logits=0, features=2, layers=["3"], likeness=likeness)
        outputs = second.prepare(small, model, plan, ())(x)
        loss = float(second.penalty(batch=(x, y), outputs=outputs).detach())
        mine, theirs = small[:4](x), model[:4](x)
        kept = [c for c in range(8) if c not in plan.removed["3.weight"][0]]
        apart = (mine - theirs[:, kept]).square().sum() / theirs[:, kept].square().sum()
        wanted = apart if likeness == "values" else similarity_preserving_loss(mine, theirs)
        assert loss == pytest.approx(2 * float(wanted.detach()), rel=1e-5)
        second.close()
    assert not any(module._forward_hooks for net in (small, model) for module in net.modules())


def test_a_training_with_it_brings_the_small_network_nearer():
    model, plan, small = halved()
    data = fp.load_data("digits", subset=256)
    images, _ = next(iter(data.batches("train", batch_size=128, count=1, seed=0)))

    def apart() -> float:
        with torch.no_grad():
            theirs = functional.log_softmax(model(images), 1)
            mine = functional.log_softmax(small.eval()(images), 1)
            return float(functional.kl_div(mine, theirs, reduction="batchmean", log_target=True))

    before = apart()
    with Distillation(temperature=1, logits=100) as method:
        trainable = method.prepare(small, model, plan, ())
        settings = fp.TrainingSettings(epochs=4, batch_size=32, lr=0.01, augmentation=None, precision="float32")
        result = fp.train(trainable, data, settings, regularizer=method, progress=False)
    assert result.history[-1]["penalty"] < result.history[0]["penalty"] and apart() < 0.5 * before


def test_what_is_wrong_is_one_line():
    model, plan, small = halved()
    for wrong in ({"temperature": 0}, {"logits": -1}, {"features": 1}, {"layers": ["0"], "likeness": "none"}):
        with pytest.raises(FlowpruneError):
            Distillation(**wrong)
    method = Distillation(features=1, layers=["nowhere"])
    with pytest.raises(ModelError, match="no module 'nowhere'"):
        method.prepare(small, model, plan, ())
    with pytest.raises(FlowpruneError, match="prepare"):
        Distillation().penalty(batch=(torch.zeros(1), torch.zeros(1)), outputs=torch.zeros(1, 2))
    method = Distillation()
    method.prepare(small, model, plan, ())
    with pytest.raises(FlowpruneError, match="logits"):
        method.penalty()
    with pytest.raises(FlowpruneError, match="acts during training"):
        fp.recover(small, model, plan, (), recovery="distillation")
