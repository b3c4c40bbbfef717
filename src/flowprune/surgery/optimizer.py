"""The optimizer comes along: its state is cut the way its parameters were."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from flowprune.allocation import Plan
from flowprune.errors import ModelError
from flowprune.surgery.cut import names_of_tensors, slice_tensor


def cut_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, small: nn.Module, plan: Plan
) -> torch.optim.Optimizer:
    """An optimizer of the same kind over ``small``'s parameters.

    Every state tensor that has its parameter's shape (momentum, second moments) is sliced like the parameter; everything else
    (step counts, hyper-parameters, parameter groups and their order) is copied. ``optimizer`` is untouched.

    Raises:
        ModelError: if the optimizer holds a parameter that is not ``model``'s.
    """
    names = names_of_tensors(model)
    smaller = dict(small.named_parameters(remove_duplicate=False))

    def partner(parameter: torch.Tensor) -> tuple[str, torch.Tensor | None]:
        name = names.get(id(parameter))
        if name is None:
            raise ModelError(
                f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not the model's; "
                "pass the optimizer that was built over this model's parameters"
            )
        return name, smaller.get(name)  # a branch without a live end has no parameters any more

    # Built by hand, not through the constructor: an optimizer's defaults are not always its constructor's arguments.
    result: torch.optim.Optimizer = object.__new__(type(optimizer))
    per_instance = {"step", "state", "param_groups"}  # a scheduler wraps `step` of the instance it drives
    result.__dict__.update({key: value for key, value in vars(optimizer).items() if key not in per_instance})
    result.defaults = dict(optimizer.defaults)
    result.param_groups = [
        {
            key: [new for p in value if (new := partner(p)[1]) is not None] if key == "params" else value
            for key, value in group.items()
        }
        for group in optimizer.param_groups
    ]
    result.state = defaultdict(dict)
    for parameter, state in optimizer.state.items():
        name, new = partner(parameter)
        if new is None:
            continue
        result.state[new] = {key: _cut_state(value, parameter, plan, name) for key, value in state.items()}
    return result


def _cut_state(value: Any, parameter: torch.Tensor, plan: Plan, name: str) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape == parameter.shape:
        return slice_tensor(value, plan.removed.get(name, {}), None)
    return value.clone()
