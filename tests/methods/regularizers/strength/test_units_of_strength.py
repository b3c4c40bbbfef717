"""Pulls, pressures and proximal steps: what they do to scales, beside what they say, and over a resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import flowprune as fp
from flowprune.engine.interfaces import Regularizer
from flowprune.errors import ArtifactError, FlowpruneError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.strength.proximal_push import ProximalPush
from flowprune.methods.regularizers.strength.pull import pressure_for
from flowprune.training import TrainingSettings, load_data, train

SETTINGS = {"epochs": 3, "batch_size": 32, "lr": 0.05, "augmentation": None, "precision": "float32"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("resnet8", in_channels=1, width=4)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 5e-3])
def test_the_pressure_of_a_pull_moves_a_scale_so_far(decay: float, nesterov: bool) -> None:
    scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([scale], lr=0.1, momentum=0.9, weight_decay=decay, nesterov=nesterov)
    steps = 2000

    def rate(step: int) -> float:
        return 0.05 * (1 + math.cos(math.pi * step / steps))

    pressure = pressure_for(0.7, fp.Training(optimizer, steps=steps, rates=rate), scale)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        scale.grad = torch.full_like(scale, pressure)
        optimizer.step()
    assert -scale.item() == pytest.approx(0.7, rel=0.01)


def test_the_coefficient_of_a_pull_is_that_of_the_derivation() -> None:
    """k1 = 0.066, C = 16, e = 0.8 pull by 1.2 in 780 steps of a cosine from 0.1 (the table the unit comes from)."""
    torch.manual_seed(0)
    model = fp.models.create("resnet8", in_channels=1, width=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    flow = FeatureFlow(model, "1.2 pull")
    flow.begin(fp.Training(optimizer, steps=780, rates=lambda step: 0.05 * (1 + math.cos(math.pi * step / 780))))
    model(torch.randn(2, 1, 8, 8))
    assert flow.penalty() > 0 and flow.coefficients is not None
    assert flow.coefficients["gradient"] == pytest.approx(0.066, rel=0.05)
    flow.close()


def loss_and_flow(unit: str, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, FeatureFlow]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    flow = FeatureFlow(model, unit, **options)
    return model, optimizer, flow


def test_a_pressure_is_a_share_of_the_measured_force() -> None:
    model, optimizer, flow = loss_and_flow("0.5 pressure", reduction="channel")
    flow.begin(fp.Training(optimizer, steps=4))
    images, labels = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    scales = [model.get_parameter(f"layer{stage}.0.bn2.weight") for stage in (1, 2, 3)]
    seen = []
    for _ in range(4):
        loss = functional.cross_entropy(model(images), labels)
        penalty = flow.penalty()
        assert penalty.item() == 0 and flow.coefficients is None
        optimizer.zero_grad()
        (loss + penalty).backward()
        assert all(scale.grad is not None for scale in scales)
        seen.append(torch.cat([scale.grad.clone() for scale in scales if scale.grad is not None]))
        optimizer.step()
    force = torch.stack(seen).double().mean(0).abs().median().item()
    model(images)
    assert flow.penalty().item() > 0 and flow.coefficients is not None
    assert flow.coefficients["gradient"] == pytest.approx(0.5 * force / 0.8, rel=1e-5)
    assert optimizer._optimizer_step_pre_hooks
    flow.close()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_proximal_step_is_a_soft_threshold_in_the_place_of_the_subgradient() -> None:
    scale, other = nn.Parameter(torch.tensor([0.5, -0.02, 0.3])), nn.Parameter(torch.tensor(2.0))
    optimizer = torch.optim.SGD([scale, other], lr=0.1, momentum=0.5)
    push = ProximalPush({"scale": scale})
    penalty = push.taken_off((torch.tensor([0.3, 0.4, -0.1]) * scale.sign() * scale).sum() * other)
    assert penalty.item() == pytest.approx(2 * (0.15 + 0.008 - 0.03))
    penalty.backward()
    assert scale.grad is not None and not scale.grad.any() and other.grad is not None and other.grad.item() != 0
    optimizer.zero_grad()
    push.after_step(optimizer)
    # lr / (1 - m) = 0.2; pressures 0.6, 0.8 and, away from zero, none
    torch.testing.assert_close(scale.detach(), torch.tensor([0.5 - 0.12, 0.0, 0.3]))


@pytest.mark.parametrize("proximal", [True, False])
def test_a_scale_lands_on_zero_and_stays_where_a_subgradient_hovers(proximal: bool) -> None:
    """The task holds one scale harder than the penalty presses, and one less hard."""
    scale = nn.Parameter(torch.tensor([0.5, 0.5]))
    optimizer = torch.optim.SGD([scale], lr=0.1)
    push = ProximalPush({"scale": scale})
    for _ in range(60):
        penalty = scale.abs().sum()
        task = -(torch.tensor([1.5, 0.4]) * scale).sum() + scale.square().sum() / 2
        optimizer.zero_grad()
        (task + (push.taken_off(penalty) if proximal else penalty)).backward()
        optimizer.step()
        push.after_step(optimizer)
    assert scale[0].item() == pytest.approx(0.5, abs=0.05)
    assert (scale[1].item() == 0) is proximal


class Dying(Regularizer):
    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Any) -> None:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            raise InterruptedError


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "0.5 pull", "pushed_scales": "proximal"},
        {"gradient": "0.5 pressure", "curvature": "5%"},
        {"gradient": "2 pressure", "norm": "group", "weights": "macs"},
    ],
    ids=str,
)
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    data, settings = load_data("digits", subset=64), TrainingSettings.model_validate(SETTINGS)
    through, stopped, resumed = network(), network(), network()
    with FeatureFlow(through, **options) as flow:
        train(through, data, settings, regularizer=[flow, Regularizer()], progress=False)
        assert options.get("curvature") or flow.coefficients is not None
    with pytest.raises(InterruptedError), FeatureFlow(stopped, **options) as flow:
        train(stopped, data, settings, regularizer=[flow, Dying()], run_folder=tmp_path, progress=False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["settings"]["regularizers"] = ["FeatureFlow", "Regularizer"]
    torch.save(state, tmp_path / "checkpoint.pt")
    with FeatureFlow(resumed, **options) as flow:
        given = [flow, Regularizer()]
        train(resumed, data, settings, regularizer=given, run_folder=tmp_path, resume=True, progress=False)
    assert all(map(torch.equal, resumed.state_dict().values(), through.state_dict().values()))


def test_what_is_not_defined_is_one_line() -> None:
    model = network()
    images = torch.randn(4, 1, 8, 8)
    with pytest.raises(FlowpruneError, match="a pull is defined for SGD, and this is AdamW") as caught:
        FeatureFlow(model, "0.5 pull").begin(fp.Training(torch.optim.AdamW(model.parameters()), steps=10))
    assert "\n" not in str(caught.value)
    with (
        pytest.raises(FlowpruneError, match=r"call flow\.begin\(fp\.Training"),
        FeatureFlow(model, "0.5 pull") as flow,
    ):
        model(images)
        flow.penalty()
    bare = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    with pytest.raises(FlowpruneError, match="no point of this flow ends in a batch norm"):
        flow = FeatureFlow(bare, "0.5 pressure")
        flow.begin(fp.Training(torch.optim.SGD(bare.parameters(), lr=0.1), steps=10))
        bare(images)
        flow.penalty()
    with pytest.raises(ArtifactError, match="strengths"):
        FeatureFlow(model, "0.5 pull").load_state_dict(FeatureFlow(model, "0.4 pull").state_dict())


def test_force_and_coefficient_do_not_depend_on_the_loss_scale() -> None:
    found: list[Tensor] = []
    for scaled in (False, True):
        torch.manual_seed(3)
        model, optimizer, flow = loss_and_flow("0.5 pressure")
        flow.begin(fp.Training(optimizer, steps=2))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for _ in range(3):
            loss = functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.arange(8)) + flow.penalty()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert flow.coefficients is not None
        found.append(torch.tensor(flow.coefficients["gradient"]))
        flow.close()
    torch.testing.assert_close(*found, rtol=1e-3, atol=0)
