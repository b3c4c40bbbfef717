"""How much leaves where."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

Levels = NDArray[np.int64]
"""[units]: how many steps each unit loses."""


@dataclass(frozen=True)
class AllocationProblem:
    """Units that can lose something step by step, and how much may be left of all of them together.

    A unit is a tensor of weights, which loses a weight a step, or a class of coupled groups, which loses a channel of each of its
    groups (or, where attention heads and widths are tied, a few).

    Attributes:
        units: their names.
        scores: for each unit, [steps] in ascending order: what leaves in each of its steps is worth so much.
        limits: [units]: how many steps each may lose.
        steps: [units]: the smallest step that leads from one allowed level to another; ones, unless widths are rounded.
        count: the exact count (of non-zero weights, MACs, parameters) that is left at such levels.
        target: the largest count allowed.
        counted: what is counted, for messages.
        rounding: the allowed levels nearest to such levels.
        probe: a copy of the network, in evaluation mode, that has really lost so much; to be looked at and thrown away.
        costs: [units]: by how much each step lowers the count, where the costs of the units add up; None where they do not (the
            MACs of a layer depend on both of its widths).
        shapes: of the units that are tensors; None where they are classes of groups.
        trained: the network at such levels, after so many epochs of training; None where no study hands it in.
        kept: what an allocator has found out about these units of this network and does not want to find out again under the next
            budget: one of time tries several. Under keys of its own.
    """

    units: tuple[str, ...]
    scores: tuple[NDArray[np.float64], ...]
    limits: Levels
    steps: Levels
    count: Callable[[Levels], int]
    target: int
    counted: str
    rounding: Callable[[Levels], Levels]
    probe: Callable[[Levels], nn.Module]
    costs: Levels | None = None
    shapes: tuple[tuple[int, ...], ...] | None = None
    trained: Callable[[Levels, int], nn.Module] | None = None
    kept: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> Levels:
        """[units]: how many steps there are in each unit, whatever its limit."""
        return np.array([len(scores) for scores in self.scores], dtype=np.int64)


class Allocator(Protocol):
    """How much leaves where.

    It may carry the class attribute ``needs_data`` (False where absent): its constructor then takes ``batches=``.
    """

    def __call__(self, problem: AllocationProblem) -> Levels:
        """Levels that are allowed, and at which no more is left than the target.

        Raises:
            BudgetError: it does not work on such units, or nothing it can choose meets the target.
        """
        ...
