"""The property every architecture must have: what the engine makes of it is its silenced twin, and a module that trains.

Every comparison is made on the example inputs and on three others of the same shapes, with other integers and other marks. What is
dead and constant leaves without a trace: that property is ``dense_property.py``'s.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from random_architectures import drawn_inputs
from silenced_twin import same_state, silenced_twin
from torch import Tensor, nn
from twin_limits import undefined

from flowprune.engine.allocation import Plan
from flowprune.engine.coupling import Coupling
from flowprune.engine.planning import CoupledModel
from flowprune.errors import BudgetError
from flowprune.methods.importance import L1, L2
from flowprune.methods.importance import Random as RandomImportance
from flowprune.pruning import plan, prune

AWAKENINGS = 5
"""How often other weights are tried where nothing that leaves shows in the outputs."""

LARGEST_DIFFERENCE = 1e-10
"""Of the output's scale, in float64: what another order of summation may do."""

OTHER_INPUTS = 3

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of one architecture.

    Attributes:
        budget: what was asked; with further entries where the first could not be reached, or removed nothing.
        failure: what is wrong; None if nothing is.
        undefined: where the twin is not defined, so that it neither confirms nor refutes; None where it is.
        difference: between the pruned model and its twin, as a share of the output's scale, the largest of all inputs.
        from_dense: between the twin and the dense model, likewise.
        kept: parameters, as a share.
        frozen: share of the weights of convolutions and linear layers, the heads' aside, whose filters all stay.
        empty: nothing leaves: a reason is given for every such weight, or what is free are groups of two, which stay.
    """

    budget: tuple[str, ...]
    failure: str | None = None
    undefined: str | None = None
    difference: float = 0.0
    from_dense: float = 0.0
    kept: float = 1.0
    frozen: float = 0.0
    empty: bool = False


def verdict(model: nn.Module, random: Random) -> Verdict:
    """Draw a budget, prune, compare. Never raises: what is raised is a failure."""
    asked: list[str] = []
    found = caught(lambda: _verdict(model, random, asked))
    return found if isinstance(found, Verdict) else Verdict(tuple(asked), found)


def caught(judge: Callable[[], Any]) -> Any:
    """What ``judge`` returns, or in words what it raised and where: whatever it is, it is the finding."""
    try:
        return judge()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {place.name}: {str(error)[:300]}"


def several_inputs(model: nn.Module, random: Random) -> list[Inputs]:
    """The example, which may be as plain as people's are, and the others; whatever was drawn of torch's random numbers before."""
    torch.manual_seed(random.randrange(2**31))
    return [drawn_inputs(model, plain=random.random() < 0.5), *(drawn_inputs(model) for _ in range(OTHER_INPUTS))]


def _verdict(model: nn.Module, random: Random, asked: list[str]) -> Verdict:
    inputs = several_inputs(model, random)
    before = copy.deepcopy(model.state_dict())
    made = _planned(model, inputs[0], random, asked)
    small = prune(model, made).eval()
    if not same_state(before, model.state_dict()) or model.training:
        return Verdict(tuple(asked), "the source model was changed")
    frozen = _frozen_share(model, made)
    if made.is_empty:
        free = _could_lose(CoupledModel.of(model, inputs[0], ()).coupling)
        silent = free - set(made.frozen)
        reason = f"empty, and no reason for {sorted(silent)}" if silent else None
        return Verdict(tuple(asked), reason, frozen=frozen, empty=True)
    twin = silenced_twin(model, made)
    unsure = undefined(model, twin, inputs)
    difference, from_dense = distance(small, twin, inputs), distance(model, twin, inputs)
    for attempt in range(AWAKENINGS):
        if not difference < LARGEST_DIFFERENCE or from_dense > 1e-7:
            break
        # all that leaves is dead on these inputs (four units behind a ReLU may be, and what is behind a closed gate): the same
        # cut of the same architecture, awake
        model = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(attempt)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter += 1
                if attempt:
                    parameter += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / 2
        small, twin = prune(model, made).eval(), silenced_twin(model, made)
        difference, from_dense = distance(small, twin, inputs), distance(model, twin, inputs)
    count = sum(parameter.numel() for parameter in small.parameters())
    result = (unsure, difference, from_dense, count / made.params[0], frozen)
    if unsure is None and not difference < LARGEST_DIFFERENCE:  # a NaN is one, too
        return Verdict(tuple(asked), f"differs from its twin by {difference:.1e}", *result)
    if unsure is None and not from_dense > 1e-7:
        return Verdict(tuple(asked), f"the twin is the dense model ({from_dense:.1e})", *result)
    if count != made.params[1] or not count < made.params[0]:
        return Verdict(tuple(asked), f"the plan counts {made.params} parameters, there are {count}", *result)
    return Verdict(tuple(asked), _trains(model, small, inputs[0]), *result)


def distance(network: nn.Module, reference: nn.Module, inputs: Sequence[Inputs]) -> float:
    """How far ``network`` is from ``reference``, as a share of the output's scale: the largest of all inputs; NaN where one is."""
    found = []
    with torch.no_grad():
        for arguments in inputs:
            right, output = flat(reference(*arguments)), flat(network(*arguments))
            found.append((output - right).abs().max() / right.abs().max().clamp(min=1e-3))
    return float(torch.stack(found).max())


def _could_lose(coupling: Coupling) -> set[str]:
    """The weights that make channels which could leave: a group keeps two, and so do all that lose channels in step with it."""
    classes = [[coupling.groups[group] for group in groups] for groups in coupling.classes]
    large = [group for groups in classes if all(g.channels > 2 for g in groups) for group in groups]
    return {m.name for group in large for m in group.members if m.role == "output" and m.name.endswith("weight")}


def _planned(model: nn.Module, inputs: Inputs, random: Random, asked: list[str]) -> Plan:
    importance = random.choice([L2(), L1(), RandomImportance(seed=random.randrange(1000))])
    share = random.choice([0.3, 0.5, 0.65, 0.8])
    budget: dict[str, Any] = random.choice(
        [{kind: share, "scope": scope} for kind in ("macs", "params") for scope in ("global", "local")]
        + [{"channels": share}] * 2
    )
    asked.append(" ".join(map(str, [type(importance).__name__, *budget.items()])))
    try:
        made = plan(model, inputs, importance=importance, **budget)
    except BudgetError:  # too much of it is frozen
        asked.append("channels 0.5")
        made = plan(model, inputs, importance=importance, channels=0.5)
    if made.is_empty:  # 80 % of three channels are three
        asked.append("channels 0.3")
        made = plan(model, inputs, importance=importance, channels=0.3)
    return made


def _trains(model: nn.Module, small: nn.Module, inputs: Inputs) -> str | None:
    """One step in training mode: the shapes are the dense model's, and every parameter that had a gradient has one."""
    shapes: list[list[torch.Size]] = []
    learning: list[set[str]] = []
    for network in (copy.deepcopy(model).train(), small.train()):
        outputs = _tensors(network(*inputs))
        sum(output.square().mean() for output in outputs).backward()
        shapes.append([output.shape for output in outputs])
        learning.append(
            {name for name, p in network.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
        )
    if shapes[0] != shapes[1]:
        return f"in training mode the outputs are {shapes[1]} instead of {shapes[0]}"
    return None if learning[0] == learning[1] else f"no gradient for {sorted(learning[0] ^ learning[1])}"


def _weights(model: nn.Module) -> set[str]:
    """Convolutions and linear layers that are no heads and make more than one channel, each once."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, kinds) and not path.startswith("heads.") and len(module.weight) > 1
    }


def _frozen_share(model: nn.Module, made: Plan) -> float:
    sizes = {name: model.get_parameter(name).numel() for name in _weights(model)}
    stays = sum(size for name, size in sizes.items() if name in made.frozen and " filters: " not in made.frozen[name])
    return stays / max(sum(sizes.values()), 1)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)


def flat(output: Any) -> Tensor:
    """All that a network returns, in one row."""
    return torch.cat([tensor.reshape(-1) for tensor in _tensors(output)])
