"""The optimizer comes along: its state is cut the way its parameters were."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from flowprune.engine.allocation import Plan
from flowprune.engine.surgery.cut import names_of_tensors
from flowprune.engine.surgery.optimizer_state import UncutStateError, cut_state, has_other_shapes, same_layout
from flowprune.errors import FlowpruneWarning, ModelError

_PER_INSTANCE = frozenset({"step", "state", "param_groups"})
"""What a new optimizer has of its own: a scheduler wraps `step` of the instance it drives."""


def cut_optimizer(optimizer: Optimizer, model: nn.Module, small: nn.Module, plan: Plan) -> Optimizer:
    """An optimizer of the same kind over ``small``'s parameters.

    State that has its parameter's size in its dimensions (momentum, second moments, also factored ones) is sliced like the
    parameter; everything else (step counts, hyper-parameters, parameter groups and their order) is copied. Where it cannot be told
    what stays, or the optimizer keeps another kind of state for a parameter so small, the parameter starts anew, and a
    ``FlowpruneWarning`` names it. ``optimizer`` is untouched.

    Raises:
        ModelError: if the optimizer holds a parameter that is not ``model``'s.
    """
    cutting = _Cutting(names_of_tensors(model), dict(small.named_parameters(remove_duplicate=False)), plan)
    result = cutting.carried_over(optimizer)
    if cutting.anew:
        named = list(cutting.anew.items())
        shown = ", ".join(f"{name} ({why})" for name, why in named[:3])
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        warnings.warn(
            f"the optimizer's state of {shown}{more} could not be cut with its parameter and starts anew; a step or two at a "
            "small learning rate fill it again",
            FlowpruneWarning,
            stacklevel=3,
        )
    return result


class _Cutting:
    """An optimizer, and one inside it (a wrapper's), on the way to the small model; ``anew``: parameter -> what was left behind."""

    def __init__(self, names: Mapping[int, str], smaller: Mapping[str, nn.Parameter], plan: Plan) -> None:
        self._names = names
        self._smaller = smaller
        self._plan = plan
        self.anew: dict[str, str] = {}

    def carried_over(self, optimizer: Optimizer) -> Optimizer:
        # Built by hand, not through the constructor: an optimizer's defaults are not always its constructor's arguments.
        result: Optimizer = object.__new__(type(optimizer))
        for key, value in vars(optimizer).items():
            if key not in _PER_INSTANCE:
                result.__dict__[key] = self._attribute(value)
        wrapped = next((key for key, value in vars(optimizer).items() if isinstance(value, Optimizer)), None)
        if wrapped is not None and optimizer.param_groups is vars(optimizer)[wrapped].param_groups:
            if "param_groups" in vars(optimizer):  # else it asks the one inside by itself
                result.param_groups = vars(result)[wrapped].param_groups
                result.state = defaultdict(dict)
            return result
        result.param_groups = [self._group(group) for group in optimizer.param_groups]
        result.state = defaultdict(dict)
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for parameter, state in optimizer.state.items():
            name, new = self._partner(parameter)
            if new is not None:
                self._carry_state(optimizer, result, name, parameter, new, state, groups.get(id(parameter), {}))
        if isinstance(result, torch.optim.LBFGS):
            self._forget_history(result)
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            self._carry_attributes(parameter)
        return result

    def _partner(self, parameter: torch.Tensor) -> tuple[str, nn.Parameter | None]:
        """Its name, and the small model's parameter; a branch without a live end has none any more."""
        name = self._names.get(id(parameter))
        if name is None:
            raise ModelError(
                f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not the model's; "
                "pass the optimizer that was built over this model's parameters"
            )
        return name, self._smaller.get(name)

    def _attribute(self, value: Any) -> Any:
        """What else an optimizer keeps: containers are its own, with the new parameters; what is remembered by parameter is not."""
        if isinstance(value, Optimizer):
            return self.carried_over(value)
        if isinstance(value, torch.Tensor) and id(value) in self._names:
            return self._partner(value)[1]
        if type(value) is list:
            carried = [self._attribute(entry) for entry in value]
            return [new for new, old in zip(carried, value, strict=True) if new is not None or old is None]
        if isinstance(value, dict):
            kept = copy.copy(value)
            for key in [key for key in kept if isinstance(key, torch.Tensor)]:
                del kept[key]
            return kept
        return value

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        partners = [self._partner(parameter)[1] for parameter in group["params"]]
        new = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in group.items()}
        new["params"] = [partner for partner in partners if partner is not None]
        if "param_names" in group:
            named = zip(group["param_names"], partners, strict=True)
            new["param_names"] = [name for name, partner in named if partner is not None]
        return new

    def _carry_state(
        self,
        optimizer: Optimizer,
        result: Optimizer,
        name: str,
        parameter: torch.Tensor,
        new: nn.Parameter,
        state: Mapping[str, Any],
        group: Mapping[str, Any],
    ) -> None:
        removed = self._plan.removed.get(name, {})
        try:
            cut = cut_state(state, parameter.shape, removed)
        except UncutStateError as error:
            self.anew[name] = str(error)
            return
        if removed and has_other_shapes(state, parameter.shape):
            fresh = _made_anew(optimizer, group, new)
            if fresh is not None and not same_layout(cut, fresh):
                self.anew[name] = "kept otherwise at this size"
                return
        result.state[new] = cut

    def _forget_history(self, optimizer: Any) -> None:
        """L-BFGS keeps directions through the space of all parameters at once, under the first one's name."""
        optimizer._numel_cache = None
        if optimizer.state:
            optimizer.state = defaultdict(dict)
            self.anew["all parameters"] = "its history"

    def _carry_attributes(self, parameter: torch.Tensor) -> None:
        """What an optimizer keeps at the parameter itself (AdaHessian's trace)."""
        name, new = self._partner(parameter)
        for key, value in vars(parameter).items() if new is not None else ():
            if not isinstance(value, (bool, int, float, torch.Tensor)) or hasattr(new, key):
                continue
            try:
                setattr(new, key, cut_state({key: value}, parameter.shape, self._plan.removed.get(name, {}))[key])
            except UncutStateError:
                self.anew[name] = key


def _made_anew(optimizer: Optimizer, group: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, Any] | None:
    """The state that an optimizer makes for a parameter it has not seen: which second moments are factored depends on the sizes.

    None where one step on a copy of the parameter does not show it.
    """
    trial: Optimizer = object.__new__(type(optimizer))
    for key, value in vars(optimizer).items():
        if key not in _PER_INSTANCE:
            trial.__dict__[key] = value if isinstance(value, torch.Generator) else copy.copy(value)
    trial._optimizer_step_pre_hooks, trial._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    copied = nn.Parameter(parameter.detach().clone())
    copied.grad = torch.ones_like(copied)
    trial.param_groups = [{**group, "params": [copied]}]
    trial.state = defaultdict(dict)
    devices = [copied.device] if copied.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
            trial.step()
    except Exception:  # a closure is asked for, or something that its constructor sets up
        return None
    return dict(trial.state.get(copied, {}))
