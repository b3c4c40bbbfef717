"""Percentages: exact, by every way of writing the loss, resumable, and never silently wrong."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from torch import nn

from flowprune.errors import ArtifactError, ModelError, RecipeError, UnknownNameError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.models.resnet import CifarResNet

torch.set_num_threads(1)


def network() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(1, width=4)


def batches(count: int = 14):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def raw_terms(count: int = 14) -> tuple[list[float], list[float], list[float]]:
    """Task loss, gradient and curvature term of every batch, each term by a flow of its own with the coefficient 1."""
    columns: tuple[list[float], list[float], list[float]] = ([], [], [])
    for x, y in batches(count):
        model = network()
        with FeatureFlow(model, gradient=1.0) as first, FeatureFlow(model, curvature=1.0) as second:
            columns[0].append(nn.functional.cross_entropy(model(x), y).item())
            columns[1].append(first.penalty().item())
            columns[2].append(second.penalty().item())
    return columns


def argument(flow, loss):
    return loss + flow.penalty(loss)


def added(flow, loss):
    return loss + flow.penalty()


def added_first(flow, loss):
    return flow.penalty() + loss


def in_place(flow, loss):
    loss = loss * 1
    loss += flow.penalty()
    return loss


def in_place_first(flow, loss):
    total = flow.penalty()
    total += loss
    return total


def between_two(flow, loss):
    return 0.25 * loss + flow.penalty() + 0.75 * loss


def by_sum(flow, loss):
    return sum([0.5 * loss, flow.penalty(), 0.5 * loss])


def by_torch_add(flow, loss):
    return torch.add(loss, flow.penalty())


WAYS = [argument, added, added_first, in_place, in_place_first, between_two, by_sum, by_torch_add]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_share_is_exact_after_ten_batches_and_zero_before(way):
    task, gradient, curvature = raw_terms()
    model = network()
    flow = FeatureFlow(model, gradient="5%", curvature="2.5 %")
    for index, (x, y) in enumerate(batches()):
        model.load_state_dict(network().state_dict())
        loss = nn.functional.cross_entropy(model(x), y)
        total = way(flow, loss)
        if index < 10:
            assert flow.coefficients is None
            assert total.item() == pytest.approx(task[index], rel=1e-6)
        else:
            k1 = 0.05 * sum(task[:10]) / sum(gradient[:10])
            k2 = 0.025 * sum(task[:10]) / sum(curvature[:10])
            assert flow.coefficients["gradient"] == pytest.approx(k1, rel=1e-6)
            assert flow.coefficients["curvature"] == pytest.approx(k2, rel=1e-6)
            expected = task[index] + k1 * gradient[index] + k2 * curvature[index]
            assert total.item() == pytest.approx(expected, rel=1e-5)
        assert type(total * 1) is torch.Tensor
        total.backward()


@pytest.mark.parametrize("way", [added, in_place_first, by_sum], ids=lambda way: way.__name__)
def test_during_calibration_the_gradients_are_those_of_the_task_loss(way):
    x, y = next(batches())
    plain, penalised = network(), network()
    nn.functional.cross_entropy(plain(x), y).backward()
    flow = FeatureFlow(penalised, gradient="5%")
    way(flow, nn.functional.cross_entropy(penalised(x), y)).backward()
    for ours, theirs in zip(penalised.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_what_a_loop_does_with_its_loss_still_works_and_is_plain():
    model = network()
    flow = FeatureFlow(model, gradient="5%")
    running = torch.zeros(())
    for x, y in batches(12):
        loss = nn.functional.cross_entropy(model(x), y) + flow.penalty()
        assert loss.requires_grad and loss.grad_fn is not None and loss.dtype == torch.float32
        assert isinstance(loss.item(), float) and f"{loss:.3f}" and repr(loss).startswith("tensor(")
        file = io.BytesIO()
        torch.save({"loss": loss}, file)
        file.seek(0)
        assert torch.load(file, weights_only=True)["loss"].item() == loss.item()
        assert type(loss.detach()) is torch.Tensor and type(torch.stack([loss, loss])) is torch.Tensor
        assert bool(torch.isfinite(loss)) and loss > -1
        (loss / 2).backward()
        running += loss.detach()
    assert type(running) is torch.Tensor and flow.coefficients is not None


def test_what_is_summed_after_the_backward_pass_is_no_task_loss():
    task, gradient, _ = raw_terms(10)
    model = network()
    flow = FeatureFlow(model, gradient="5%")
    running = torch.tensor(1000.0)
    for x, y in batches(11):
        model.load_state_dict(network().state_dict())
        loss = nn.functional.cross_entropy(model(x), y) + flow.penalty()
        loss.backward()
        running = running + loss
    assert flow.coefficients["gradient"] == pytest.approx(0.05 * sum(task) / sum(gradient), rel=1e-6)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda loss, penalty: loss,
        lambda loss, penalty: loss + 0.5 * penalty,
        lambda loss, penalty: torch.stack([loss, penalty]).sum(),
        lambda loss, penalty: (loss.expand(3) + penalty).mean(),
        lambda loss, penalty: 1 + penalty,
    ],
    ids=["dropped", "scaled", "stacked", "no scalar", "no loss"],
)
def test_a_penalty_that_saw_no_task_loss_says_so(misuse):
    model = network()
    flow = FeatureFlow(model, gradient="5%")
    stream = batches()
    x, y = next(stream)
    misuse(nn.functional.cross_entropy(model(x), y), flow.penalty())
    x, y = next(stream)
    model(x)
    with pytest.raises(ModelError, match=r"flow\.penalty\(task_loss\)"):
        flow.penalty()


def test_a_batch_whose_loss_is_not_finite_does_not_count():
    task, gradient, _ = raw_terms(10)
    model = network()
    flow = FeatureFlow(model, gradient="5%")
    for index, (x, y) in enumerate(batches(10)):
        for factor in [float("nan"), 1.0] if index == 3 else [1.0]:
            loss = nn.functional.cross_entropy(model(x), y) * factor
            loss + flow.penalty()
            model.load_state_dict(network().state_dict())
    model(x)
    flow.penalty(loss)
    assert flow.coefficients["gradient"] == pytest.approx(0.05 * sum(task) / sum(gradient), rel=1e-6)


def test_two_flows_in_one_loss_both_see_it():
    models = [network(), network()]
    flows = [FeatureFlow(model, gradient="5%") for model in models]
    for x, y in batches(11):
        losses = [nn.functional.cross_entropy(model(x), y) for model in models]
        (losses[0] + losses[1] + flows[0].penalty() + flows[1].penalty()).backward()
        [model.load_state_dict(network().state_dict()) for model in models]
    task, gradient, _ = raw_terms(10)
    for flow in flows:
        assert flow.coefficients["gradient"] == pytest.approx(0.05 * 2 * sum(task) / sum(gradient), rel=1e-6)


@pytest.mark.parametrize("interrupted_after", [0, 1, 7, 10, 12])
def test_a_resumed_run_goes_on_exactly(interrupted_after):
    def run(interruption: int | None) -> list[float]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        flow = FeatureFlow(model, gradient="5%", curvature="1%")
        seen = []
        for index, (x, y) in enumerate(batches(16)):
            if index == interruption:
                file = io.BytesIO()
                torch.save(
                    {"flow": flow.state_dict(), "model": model.state_dict(), "sgd": optimizer.state_dict()}, file
                )
                json.dumps(flow.state_dict())
                file.seek(0)
                state = torch.load(file, weights_only=True)
                model = network()
                model.load_state_dict(state["model"])
                optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
                optimizer.load_state_dict(state["sgd"])
                flow = FeatureFlow(model, gradient="5%", curvature="1%")
                flow.load_state_dict(state["flow"])
            loss = nn.functional.cross_entropy(model(x), y) + flow.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return [*seen, *flow.coefficients.values()]

    assert run(interrupted_after) == run(None)


def test_foreign_states_are_refused():
    flow = FeatureFlow(network(), gradient="5%")
    own = flow.state_dict()
    with pytest.raises(ArtifactError, match="strengths"):
        FeatureFlow(network(), gradient="6%").load_state_dict(own)
    with pytest.raises(ArtifactError, match="no state of a feature flow"):
        flow.load_state_dict({"epoch": 3})
    broken = copy.deepcopy(own)
    broken["task_loss"] = None
    with pytest.raises(ArtifactError):
        flow.load_state_dict(broken)


def test_a_term_that_is_always_zero_cannot_have_a_share():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU())
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    flow = FeatureFlow(model, gradient="5%")
    for _ in range(10):
        flow.penalty(model(torch.ones(1, 3, 2, 2)).sum() + 1)
    model(torch.ones(1, 3, 2, 2))
    with pytest.raises(ModelError, match="gradient of the flow was 0"):
        flow.penalty()


@pytest.mark.parametrize("strength", ["5", "five%", "-1%", -0.1, float("nan"), "inf%", True, [0.1], "%", ""])
def test_strengths_that_are_none_are_refused(strength):
    with pytest.raises(RecipeError, match="no strength"):
        FeatureFlow(network(), gradient=strength)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"across": "projct"}, UnknownNameError, "did you mean 'project'"),
        ({"reduction": "average"}, UnknownNameError, "reduction"),
        ({"curvature_form": "angel"}, UnknownNameError, "did you mean 'angle'"),
        ({"points": "block"}, UnknownNameError, "did you mean 'blocks'"),
        ({"points": ["layer1.0", "layer2.O"]}, UnknownNameError, "did you mean 'layer2.0'"),
        ({"points": ["layer1.0", "layer1.0"]}, ModelError, "twice"),
        ({"points": ["layer1.0"]}, RecipeError, "fewer than two"),
        ({"norm": 3}, RecipeError, "norm"),
    ],
)
def test_options_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        FeatureFlow(network(), gradient=1.0, **options)


def test_strength_zero_costs_nothing_and_no_strength_is_an_error():
    model = network()
    x, _ = next(batches())
    model(x)
    off = FeatureFlow(model, gradient=0.0, curvature="0%")
    none = FeatureFlow(model)
    model(x)
    assert off.penalty().item() == 0.0
    with pytest.raises(ModelError, match="no strength"):
        none.penalty()
