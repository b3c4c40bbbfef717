"""The force with which a task holds scales, measured: what a penalty's pressure is to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

STEPS = 100
"""Over so many steps it is measured at most; over an epoch where that is shorter."""


class TaskForce:
    """The median over scales of |mean over steps of dL/dgamma|.

    Single gradients are mostly the noise of their batch, so the mean is taken first. Meanwhile the penalty is 0.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, list[float]] = {}

    def watch(self, scales: Mapping[str, Tensor]) -> None:
        """Take in the gradients of one step."""
        for name, scale in scales.items():
            if scale.grad is not None:
                new = scale.grad.detach().double().flatten().cpu()
                if name in self._sums:
                    new += torch.tensor(self._sums[name], dtype=torch.float64)
                self._sums[name] = new.tolist()
        self.steps += 1

    def median(self) -> float:
        """The force; 0 where no scale had a gradient."""
        sums = [abs(number) for numbers in self._sums.values() for number in numbers]
        return float(torch.tensor(sums, dtype=torch.float64).median()) / max(1, self.steps) if sums else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"steps": self.steps, "sums": {name: list(numbers) for name, numbers in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.steps = int(state["steps"])
        self._sums = {str(name): [float(number) for number in numbers] for name, numbers in state["sums"].items()}
