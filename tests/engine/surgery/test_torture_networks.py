"""The constructions that break other tools: each is pruned right, in every budget mode."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from torture_networks import IMAGE, TORTURE

from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

STAYS = {
    # where a number is written in the code, that layer stays and is named
    "uneven split": {"stem.0.weight"},
    "view with a written number": {"features.2.0.weight"},
    "option-A shortcut": {"outer.0.weight"},
}
BUDGETS = {
    "macs-global": {"macs": 0.5},
    "macs-local": {"macs": 0.5, "scope": "local"},
    "params-global": {"params": 0.6},
    "params-local": {"params": 0.6, "scope": "local"},
    "channels": {"channels": 0.5},
}


def test_all_of_them_are_there() -> None:
    assert len(TORTURE) == 22


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", TORTURE)
def test_torture_network_equals_its_silenced_twin(name: str, budget: str) -> None:
    torch.manual_seed(1)
    model = randomized(TORTURE[name]()).double().eval()
    biases = [parameter for path, parameter in model.named_parameters() if path.endswith("bias")]
    assert biases and all(bool((bias != 0).all()) for bias in biases), "what a removed channel's bias adds could hide"
    images = torch.randn(3, *IMAGE, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    made = plan(model, images[:1], importance=L2(), **BUDGETS[budget])
    small = prune(model, made).eval()
    twin = silenced_twin(model, made)
    assert same_state(state, model.state_dict())
    dense_output, twin_output, output = (_outputs(network, images) for network in (model, twin, small))
    assert output.keys() == dense_output.keys()
    for key in output:
        assert largest_difference(output[key], twin_output[key]) < 1e-10
        assert largest_difference(dense_output[key], twin_output[key]) > 1e-6
    assert made.params[1] <= 0.7 * made.params[0]
    _only_written_numbers_stay(name, made.frozen)

    # with batch statistics, and on the paths that only training takes
    twin_output, output = (_outputs(network.train(), images) for network in (twin, small))
    assert ("auxiliary" in output) == (name == "dictionary output with an auxiliary head")
    for key in output:
        assert largest_difference(output[key], twin_output[key]) < 1e-10


def _only_written_numbers_stay(name: str, frozen: Mapping[str, str]) -> None:
    stays = {weight: reason for weight, reason in frozen.items() if "it is an output of the model" not in reason}
    assert stays.keys() == STAYS.get(name, set())
    assert all("written in the code" in reason for reason in stays.values())
    outputs = frozen.keys() - stays.keys()
    assert all(weight.startswith(("head.", "classifier", "out.", "auxiliary.")) for weight in outputs)


def _outputs(network: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = network(images)
    return output if isinstance(output, dict) else {"out": output}
