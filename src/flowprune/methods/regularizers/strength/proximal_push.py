"""A proximal step on the scales that a penalty pushes, in the place of its subgradient there.

Steps along a subgradient of |gamma| hover around zero; a soft threshold lands on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from flowprune.methods.regularizers.strength.pull import reach
from flowprune.methods.regularizers.strength.step_hooks import group_of


class ProximalPush:
    """Takes a penalty's gradient off the scales, and shrinks them by as much after the optimizer has stepped.

    With g the penalty's gradient at a scale and p = max(0, g sign(gamma)) its pressure towards zero::

        gamma <- sign(gamma) max(0, |gamma| - lr p / (1 - m))

    which is as far as the subgradient would have gone with SGD of momentum m. What pushes a scale away from zero does not act. At
    zero g says nothing, so there p is what it was last, and a scale stays zero while the task pulls less than that.
    """

    def __init__(self, scales: Mapping[str, Tensor]) -> None:
        self._scales = dict(scales)
        self._pushes: dict[str, Tensor] = {}
        self._calls = 0
        self._last: dict[str, Tensor] = {}
        self._at_zero: dict[str, Tensor] = {}

    def taken_off(self, penalty: Tensor) -> Tensor:
        """The same number, with the same gradients everywhere but at the scales, where it has none. It costs a backward pass."""
        if not penalty.requires_grad:
            return penalty
        held = {name: scale for name, scale in self._scales.items() if scale.requires_grad}
        found = torch.autograd.grad(penalty, list(held.values()), retain_graph=True, allow_unused=True)
        self._calls += 1
        self._at_zero = {name: scale.detach() == 0 for name, scale in held.items()}
        rest = penalty
        for (name, scale), push in zip(held.items(), found, strict=True):
            if push is not None:
                self._pushes[name] = self._pushes[name] + push if name in self._pushes else push
                along = (push * scale).sum()
                rest = rest - along + along.detach()
        return rest

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the scales by the mean push of the penalties since the last step, over all processes.

        Raises:
            RecipeError: the optimizer is not SGD.
        """
        for name, push in self._pushes.items():
            scale, group = self._scales[name], group_of(optimizer, self._scales[name])
            step = float(group["lr"]) * reach(group, optimizer, "a proximal step")
            towards = (_mean_of_processes(push / self._calls) * scale.sign()).clamp_min(0)
            before = self._last.get(name, torch.zeros_like(towards)).to(towards)
            self._last[name] = towards = torch.where(self._at_zero[name], before, towards)
            scale.copy_(scale.sign() * (scale.abs() - step * towards).clamp_min(0))
        self._pushes, self._calls = {}, 0

    def state_dict(self) -> dict[str, list[float]]:
        """Plain numbers: the last pressures."""
        return {name: last.flatten().tolist() for name, last in self._last.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Take over what ``state_dict`` gave."""
        self._last = {name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in state.items()}


def _mean_of_processes(tensor: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.all_reduce(tensor)
        tensor /= distributed.get_world_size()
    return tensor
