"""Schedules and the controller: what they do to the strength, that the target is met, and that a resumed run is the same run."""

from __future__ import annotations

import io
import json

import pytest
import torch
from thoroughness import times
from torch.nn import functional

from flowprune.engine.measuring import dead_filters
from flowprune.errors import ArtifactError, ModelError, RecipeError, UnknownNameError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.strength.control import Control
from flowprune.models.vgg import PlainNet
from flowprune.training import load_data

torch.set_num_threads(1)


def network(seed: int = 0) -> PlainNet:
    torch.manual_seed(seed)
    return PlainNet([2, 2], hidden=False, width=8, in_channels=1)


class Training:
    """Digits, by hand."""

    def __init__(self, epochs: int, seed: int = 0) -> None:
        self.data = load_data("digits", subset=400)
        self.epochs, self.seed = epochs, seed
        self.start()

    def start(self) -> None:
        self.model = network(self.seed)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        self.flow = FeatureFlow(self.model, "5%", target_dead=0.3, epochs=self.epochs)

    def epoch(self, number: int) -> float:
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(number))
        for x, y in self.data.train.batches(list(order.split(20)), torch.device("cpu")):
            loss = functional.cross_entropy(self.model(self.data.normalize(x)), y)
            self.optimizer.zero_grad()
            (loss + self.flow.penalty()).backward()
            self.optimizer.step()
        return self.flow.epoch_end()["dead_share"]

    def state(self) -> io.BytesIO:
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "flow": self.flow}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        json.dumps(self.flow.state_dict())
        file.seek(0)
        return file

    def resume(self, file: io.BytesIO) -> None:
        state = torch.load(file, weights_only=True)
        self.start()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.flow.load_state_dict(state["flow"])


# The second once went on dying, to 42 %, long after the strength was down.
@pytest.mark.parametrize("seed", times(quick=[1], thorough=[0, 1]))
def test_the_controller_reaches_its_target_on_the_digits(seed: int) -> None:
    training = Training(60, seed)
    shares = [training.epoch(number) for number in range(60)]
    counted = dead_filters(training.model, torch.zeros(2, 1, 16, 16))
    assert shares[-1] == counted.dead / counted.filters
    assert shares[5] < 0.05 and abs(shares[-1] - 0.3) <= 0.05


def test_a_resumed_controller_is_bit_for_bit_the_same():
    whole, parts = Training(12), Training(12)
    expected = [whole.epoch(number) for number in range(9)]
    seen = [parts.epoch(number) for number in range(5)]
    parts.resume(parts.state())
    seen += [parts.epoch(number) for number in range(5, 9)]
    assert seen == expected
    assert parts.flow.state_dict() == whole.flow.state_dict()
    assert parts.flow.coefficients == whole.flow.coefficients
    for ours, theirs in zip(parts.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_plant_that_answers_late_is_driven_to_the_target():
    control = Control(epochs=100, target=0.4)
    share, speed = 0.0, 0.0
    for _ in range(100):
        speed = 0.5 * speed + 0.0004 * control.strength
        share = min(1.0, share + speed)
        control.epoch_end(share)
    assert share == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0] * 20),
        ("warm-up", [0.5] + [1.0] * 19),
        ("linear", [(epoch + 1) / 20 for epoch in range(20)]),
    ],
)
def test_schedules_scale_the_coefficients_epoch_by_epoch(schedule, factors):
    model = network()
    flow = FeatureFlow(model, 0.5, 0.25, schedule=schedule, epochs=20)
    plain = FeatureFlow(model, 0.5, 0.25)
    for factor in factors:
        model(torch.ones(2, 1, 8, 8))
        assert flow.coefficients == {"gradient": 0.5 * factor, "curvature": 0.25 * factor}
        assert flow.penalty().item() == pytest.approx(factor * plain.penalty().item(), rel=1e-6)
        assert flow.epoch_end() == {"strength": factor}


def test_macs_are_steered_by_what_is_handed_in():
    flow = FeatureFlow(network(), target_macs=0.5, epochs=10)
    with pytest.raises(ModelError, match="epoch_end"):
        flow.epoch_end()
    assert flow.epoch_end(macs=1.0) == {"strength": 1.0, "macs_left": 1.0}
    assert flow.epoch_end({"macs_left": 1.0}) == {"strength": 1.0, "macs_left": 1.0}
    assert flow.state_dict()["control"]["strength"] == 2.0
    flow.epoch_end(macs=0.4)
    assert flow.state_dict()["control"]["strength"] == 1.0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target_dead": 0.3}, RecipeError),
        ({"target_dead": 1.3, "epochs": 3}, RecipeError),
        ({"target_dead": 0.3, "target_macs": 0.5, "epochs": 3}, RecipeError),
        ({"target_dead": 0.3, "epochs": 3, "schedule": "linear"}, RecipeError),
        ({"schedule": "linear"}, RecipeError),
        ({"schedule": "linaer", "epochs": 3}, UnknownNameError),
        ({"schedule": "warm-up", "epochs": 0}, RecipeError),
    ],
)
def test_settings_that_are_none_are_refused(options, error):
    with pytest.raises(error):
        FeatureFlow(network(), 0.5, **options)


def test_states_of_other_controllers_are_refused_and_older_ones_are_taken():
    steered = FeatureFlow(network(), 0.5, target_dead=0.3, epochs=10)
    plain = FeatureFlow(network(), 0.5)
    with pytest.raises(ArtifactError, match="target"):
        steered.load_state_dict(plain.state_dict())
    older = plain.state_dict()
    del older["control"]
    plain.load_state_dict(older)
    with pytest.raises(ArtifactError):
        steered.load_state_dict(older)
    with pytest.raises(ModelError, match="first forward"):
        steered.epoch_end()
