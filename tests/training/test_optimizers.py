"""Optimizers by name: what they are built with, what is refused, and a stopped training that goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.interfaces import Regularizer
from flowprune.errors import UnknownNameError
from flowprune.studies.recipe_file import checked_sections
from flowprune.training import TrainingSettings, load_data, train
from flowprune.training.optimizer import optimizer_of

SETTINGS = {"epochs": 3, "batch_size": 32, "lr": 0.01, "augmentation": None, "precision": "float32"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return fp.models.create("vgg6", in_channels=1, width=4)


def settings(**changed: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({**SETTINGS, **changed})


def test_without_a_name_it_is_the_sgd_of_before() -> None:
    model = network()
    optimizer = optimizer_of(model, settings())
    expected = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    assert type(optimizer) is torch.optim.SGD and optimizer.state_dict() == expected.state_dict()


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("adamw", {"betas": [0.8, 0.99]}, lambda p: torch.optim.AdamW(p, 0.01, betas=(0.8, 0.99), weight_decay=5e-4)),
        ("rmsprop", {"alpha": 0.9}, lambda p: torch.optim.RMSprop(p, 0.01, 0.9, weight_decay=5e-4, momentum=0.9)),
        ("timm:lamb", {}, lambda p: create_optimizer_v2(p, "lamb", lr=0.01, weight_decay=5e-4)),
        ("timm:momentum", {}, lambda p: create_optimizer_v2(p, "momentum", lr=0.01, weight_decay=5e-4, momentum=0.9)),
    ],
)
def test_a_named_one_steps_as_the_library_builds_it(name: str, options: dict[str, Any], reference: Any) -> None:
    ours, theirs = network(), network()
    pairs = [(ours, optimizer_of(ours, settings(optimizer=name, optimizer_options=options)))]
    pairs.append((theirs, reference(theirs.parameters())))
    images = torch.randn(4, 1, 16, 16)
    for model, optimizer in pairs:
        for _ in range(2):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_weight_decay_on_weights_leaves_biases_and_norms_alone() -> None:
    model = network()
    for name, parameter in model.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        if name.endswith("weight") and parameter.ndim == 1:
            nn.init.constant_(parameter, 2.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer_of(model, settings(weight_decay=0.1, weight_decay_on="weights", momentum=0.0, nesterov=False)).step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.01 * 0.1) if parameter.ndim > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


def test_what_the_model_itself_names_is_not_decayed_either() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.head = nn.Parameter(torch.ones(3, 3)), nn.Linear(3, 2)

        def no_weight_decay(self) -> set[str]:
            return {"places"}

    model = Placed()
    decayed, spared = optimizer_of(model, settings(weight_decay_on="weights")).param_groups
    assert decayed["params"] == [model.head.weight] and decayed["weight_decay"] == 5e-4
    assert [id(p) for p in spared["params"]] == [id(model.places), id(model.head.bias)] and spared["weight_decay"] == 0


class Dying(Regularizer):
    def __init__(self, stop_at: int) -> None:
        self.left = stop_at

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Any) -> None:
        self.left -= 1
        if not self.left:
            raise InterruptedError


@pytest.mark.parametrize("name", ["adamw", "timm:adopt"])
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    data = load_data("digits", subset=64)
    chosen = settings(optimizer=name, weight_decay_on="weights", lr=1e-3)
    through, stopped, resumed = network(), network(), network()
    train(through, data, chosen, regularizer=Regularizer(), progress=False)
    with pytest.raises(InterruptedError):
        train(stopped, data, chosen, regularizer=Dying(4), run_folder=tmp_path, progress=False)
    train(resumed, data, chosen, regularizer=Regularizer(), run_folder=tmp_path, resume=True, progress=False)
    assert all(map(torch.equal, resumed.state_dict().values(), through.state_dict().values()))
    assert not torch.equal(_flat(through), _flat(network()))


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    data, model = load_data("digits", subset=64), network()
    train(model, data, settings(epochs=1), run_folder=tmp_path, progress=False)
    file = tmp_path / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    for new in ("optimizer", "optimizer_options", "weight_decay_on"):
        del state["settings"][new]
    torch.save(state, file)
    train(network(), data, settings(epochs=1), run_folder=tmp_path, resume=True, progress=False)
    with pytest.raises(fp.FlowpruneError, match="optimizer: sgd instead of adam"):
        other = settings(epochs=1, optimizer="adam")
        train(network(), data, other, run_folder=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; did you mean 'adam'?"),
        ({"optimizer": "lamb"}, "unknown optimizer 'lamb'; did you mean 'timm:lamb'?"),
        ({"optimizer": "timm:lmab"}, "unknown optimizer 'timm:lmab'; did you mean 'timm:lamb'?"),
        ({"optimizer": "lbfgs"}, "does not fit this loop: it runs the model several times a step"),
        (
            {"optimizer": "adamw", "optimizer_options": {"beta": 1}},
            "option of the optimizer adamw 'beta'; did you mean 'betas'?",
        ),
        ({"optimizer_options": {"dampning": 0.1}}, "did you mean 'dampening'?"),
        ({"optimizer": "adam", "optimizer_options": {"lr": 1}}, "lr is a key of its own"),
        (
            {"optimizer": "adamw", "optimizer_options": {"betas": [2, 0.9]}},
            "'adamw' refuses what it is given (Invalid beta",
        ),
        ({"optimizer": "adamw", "momentum": 0.5}, "adamw takes no momentum; leave it out"),
        ({"optimizer": "rprop"}, "has no weight decay; set weight_decay: 0"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError):
        settings(**given)
    with pytest.raises(fp.FlowpruneError) as caught:
        checked_sections(TrainingSettings, given, "settings of the training")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_timm_name_without_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from flowprune.training.optimizer_choice import maker

    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(fp.FlowpruneError, match=r"pip install 'flowprune\[zoo\]'"):
        maker("timm:lamb")
    with pytest.raises(UnknownNameError, match="did you mean 'adamw'"):
        maker("adamww")
