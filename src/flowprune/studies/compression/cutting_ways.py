"""Ways to cut: which criterion, whether the sensitivities or one ranking say how much leaves where, in how many rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from flowprune.engine.allocation import Budget, Plan
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.interfaces import Importance
from flowprune.engine.planning import CoupledModel, Request
from flowprune.engine.planning.exemptions import Ignored
from flowprune.engine.planning.falling_short import attempts
from flowprune.pruning import plan_as_asked
from flowprune.studies.compression.rounds import cut_in_rounds, refitted
from flowprune.studies.sensitivity import BySensitivity, Sensitivity
from flowprune.studies.sensitivity.scan import removed_from

SENSITIVITY, RANKING = "sensitivity", "ranking"


@dataclass(frozen=True)
class Way:
    """How a model is cut.

    Attributes:
        criterion: which channels leave, by its name.
        allocation: how much leaves where: by "sensitivity", or by a "ranking" of all channels together.
        rounds: in how many cuts.
    """

    criterion: str
    allocation: str
    rounds: int = 1

    def __str__(self) -> str:
        rounds = "one round" if self.rounds == 1 else f"{self.rounds} rounds"
        return f"{self.criterion}, shared out by {self.allocation}, in {rounds}"


@dataclass(frozen=True)
class Cutting:
    """A model that can be cut in any way.

    Attributes:
        dense: the model.
        inputs: example inputs.
        criteria: by name.
        found: the scan of its groups; None where there is none.
        batches: calibration images for refits.
        ignore: as for ``plan``.
        backend: what a budget of time is timed in, and ``round_to="auto"`` is for.
        round_to: what the widths are multiples of, as for ``plan``.
    """

    dense: nn.Module
    inputs: Any
    criteria: Mapping[str, Importance]
    found: Sensitivity | None
    batches: Sequence[Any]
    ignore: Ignored = ()
    backend: str = "pytorch"
    round_to: int | str = 1

    def ways(self) -> list[Way]:
        """Every criterion under every allocation there is, in one round."""
        allocations = [RANKING] if self.found is None or not self.found.rows else [SENSITIVITY, RANKING]
        return [Way(name, allocation) for allocation in allocations for name in self.criteria]

    def plan(self, way: Way, budget: Budget) -> Plan:
        """The cut to a budget in one round.

        Raises:
            BudgetError: it cannot be met.
        """
        asked = Request(
            budget,
            self.criteria[way.criterion],
            round_to=self.round_to,
            ignore=self.ignore,
            allocator=BySensitivity(self.found) if way.allocation == SENSITIVITY and self.found is not None else None,
            backend=self.backend,
        )
        with attempts():
            return plan_as_asked(self.dense, self.inputs, asked)

    def shares(self, way: Way, budget: Budget) -> dict[str, float]:
        """What each coupled group keeps of its channels under a budget."""
        made = self.plan(way, budget)
        return {group.name: 1 - removed_from(group, made) / group.channels for group in self._groups}

    @cached_property
    def _groups(self) -> Sequence[CoupledGroup]:
        """The coupled groups of the dense model; the same for every way and budget."""
        return CoupledModel.of(self.dense, self.inputs, self.ignore).coupling.groups

    def in_rounds(
        self, way: Way, shares: Mapping[str, float], recovered: Callable[[nn.Module, int], nn.Module]
    ) -> nn.Module:
        """The cut to these shares, with a recovery after each round."""
        return cut_in_rounds(
            self.dense, self.inputs, shares, self.criteria[way.criterion], way.rounds, recovered, self.ignore
        )

    def untrained(self, way: Way, budget: Budget) -> nn.Module:
        """The cut to a budget with nothing but refits after each round: what ways are compared by."""
        return self.in_rounds(
            way, self.shares(way, budget), lambda small, number: refitted(small, self.dense, self.batches)
        )
