"""The constructions that break other tools: each is pruned right, in every budget mode."""

from __future__ import annotations

import copy

import pytest
import torch
from silenced_twin import largest_difference, randomized, same_state, silenced_twin
from torture_networks import IMAGE, TORTURE

from flowprune.importance import L2
from flowprune.pruning import plan, prune

STAYS = {
    # where a number is written in the code, that layer stays and is named
    "uneven split": {"stem.0.weight"},
    "view with a written number": {"features.2.0.weight"},
    "option-A shortcut": {"outer.0.weight"},
}
BUDGETS = {
    "macs-global": {"macs": 0.6},
    "macs-local": {"macs": 0.6, "scope": "local"},
    "params-global": {"params": 0.6},
    "params-local": {"params": 0.6, "scope": "local"},
    "channels": {"channels": 0.5},
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", TORTURE)
def test_torture_network_equals_its_silenced_twin(name: str, budget: str) -> None:
    torch.manual_seed(1)
    model = randomized(TORTURE[name]()).double().eval()
    images = torch.randn(3, *IMAGE, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    made = plan(model, images[:1], importance=L2(), **BUDGETS[budget])
    small = prune(model, made).eval()
    twin = silenced_twin(model, made)
    if name == "raw weight":  # a weight that is no module's: the twin's walk over modules does not see it
        with torch.no_grad():
            twin.kernel.index_fill_(1, torch.tensor(made.removed.get("kernel", {}).get(1, ()), dtype=torch.long), 0.0)
    assert same_state(state, model.state_dict())
    with torch.no_grad():
        dense_output, twin_output, output = (_tensor(network(images)) for network in (model, twin, small))
    assert largest_difference(output, twin_output) < 1e-10
    assert largest_difference(dense_output, twin_output) > 1e-6
    if budget != "macs-global" and budget != "macs-local":
        assert made.params[1] <= 0.7 * made.params[0]
    assert {weight for weight in made.frozen if not _is_head(weight)} <= STAYS.get(name, set())
    small.train()
    small(images)  # the training-only paths run at the new sizes too


def _tensor(output: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
    return output["out"] if isinstance(output, dict) else output


def _is_head(weight: str) -> bool:
    return weight.startswith(("head.", "classifier", "out.", "auxiliary."))
