"""Pruning in several steps, with training between them; every budget is counted from the dense model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from flowprune.allocation import Plan, Shares, budget_from, checked_shares, share_of_classes
from flowprune.coupling import CoupledGroup
from flowprune.errors import BudgetError
from flowprune.importance import Random
from flowprune.planning import CoupledModel
from flowprune.planning.falling_short import attempts
from flowprune.planning.selection import LARGEST_CUT
from flowprune.pruning import plan, prune

Finetune = Callable[[nn.Module, int], nn.Module | None]
KINDS = ("macs", "params", "channels", "threshold", "latency")
"""What a budget may count."""

_NOTHING = 1e-12
"""A share so small that no channel leaves under it."""


def prune_iteratively(
    model: nn.Module, inputs: Any, *, steps: int, finetune: Finetune | None = None, **options: Any
) -> nn.Module:
    """Cut a model in several steps; ``model`` is untouched, and the last step ends at the budget as a single cut would.

    What is kept falls by the same factor in every step: with ``macs=0.25`` and two steps to a half, then to a quarter of the dense
    model's. So does the share of the channels that every group keeps, and ``largest_cut`` is of the dense model's groups, too.

    Args:
        model: the dense model.
        inputs: example inputs.
        steps: how many.
        finetune: is given the small model and the number of the step (from 1) after every step but the last; trains it in place,
            or returns the model to go on with.
        **options: the keyword arguments of ``plan``: a budget of ``macs``, ``params`` or ``channels``, and an importance, which is
            asked anew in every step; ``branches`` are changed in the last.

    Returns:
        The small model; its lineage holds every step's plan.

    Raises:
        BudgetError: if the budget is one of a threshold or a time, or cannot be met; before anything is trained.
        Whatever ``plan`` raises.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BudgetError(f"steps={steps!r} is not a number of steps: use a whole number such as 3")
    given: dict[str, Any] = {kind: options.get(kind) for kind in KINDS}
    budget = budget_from(**given)
    if budget.kind in ("threshold", "latency"):
        raise BudgetError(
            f"{budget} cannot be met in steps; use a budget of macs=, params= or channels=, or a single cut"
        )
    others = {key: value for key, value in options.items() if key not in (*KINDS, "largest_cut")}
    possible = plan(model, inputs, **{**options, "importance": Random()})
    share = budget.share if budget.kind == "channels" else None
    widths = Widths(model, inputs, share, options.get("largest_cut", LARGEST_CUT), others)
    small = model
    for step in range(1, steps + 1):
        asked = widths.options(step / steps)
        if budget.kind != "channels":
            assert possible.target is not None
            dense = getattr(possible, budget.kind)[0]
            target = int(dense * (possible.target / dense) ** (step / steps)) if step < steps else possible.target
            asked |= {budget.kind: str(max(1, target))}
        # A branch whose ends are put at places holds its stream: nothing of that could leave in a later step.
        with attempts():  # what is to be said was said of the whole
            made = plan(
                small, inputs, **{**others, "branches": step == steps and others.get("branches", False)}, **asked
            )
        if not made.is_empty or small is model:
            small = prune(small, made)
            widths.follow(made)
        if finetune is not None and step < steps:
            small = finetune(small, step) or small
    return small


class Widths:
    """The dense model's coupled groups, and which of their channels the small model's still are."""

    def __init__(
        self, model: nn.Module, inputs: Any, share: Shares | None, largest_cut: Shares, others: dict[str, Any]
    ) -> None:
        self._exempt = {key: others[key] for key in ("ignore", "freeze", "heads") if key in others}
        if self._exempt.get("heads") == "both":
            self._exempt["heads"] = "whole"  # the widths of everything else are the same either way
        coupling = CoupledModel.of(model, inputs, **self._exempt).coupling
        caps = share_of_classes(checked_shares(largest_cut, "largest_cut"), coupling, LARGEST_CUT, "largest_cut")
        kept = share_of_classes(share, coupling, 1.0, "channels") if share is not None else np.ones(len(caps))
        self._by_channels = share is not None
        self._group_of: dict[tuple[str, int, int], int] = {}
        self._sizes = [group.channels for group in coupling.groups]
        self._least, self._share = [0] * len(self._sizes), [1.0] * len(self._sizes)
        for number, groups in enumerate(coupling.classes):
            for group in groups:
                self._least[group] = self._sizes[group] - int(self._sizes[group] * caps[number] + 1e-9)
                self._share[group] = float(kept[number])
        for origin, made in enumerate(coupling.groups):
            for member in made.members:
                for index in member.indices.reshape(-1).tolist():
                    self._group_of[member.name, member.dimension, index] = origin
        self._staying: dict[tuple[str, int], np.ndarray] = {}

    def follow(self, made: Plan) -> None:
        """Note what a step has taken."""
        for name, dimensions in made.removed.items():
            for dimension, indices in dimensions.items():
                before = self._staying.get((name, dimension))
                size = made.shapes[name][dimension]
                self._staying[name, dimension] = np.delete(np.arange(size) if before is None else before, list(indices))

    def options(self, progress: float) -> dict[str, Any]:
        """What the small model's groups may lose, and under a budget of channels do lose, up to this share of the way."""

        def cap(group: CoupledGroup) -> float:
            return max(_NOTHING, (group.channels - self._least[self._origin(group)]) / group.channels)

        def share(group: CoupledGroup) -> float:
            origin = self._origin(group)
            wanted = int(self._sizes[origin] * self._share[origin] ** progress + 1e-9)
            return min(1.0, max(_NOTHING, wanted / group.channels))

        return {"largest_cut": cap, "channels": share} if self._by_channels else {"largest_cut": cap}

    def _origin(self, group: CoupledGroup) -> int:
        """The dense model's group that a group of the small model is left of. Names would not do: they are counted through, and
        groups that turn out to stay are counted no more."""
        member = group.members[0]
        index, staying = int(member.indices[0, 0]), self._staying.get((member.name, member.dimension))
        return self._group_of[member.name, member.dimension, int(staying[index]) if staying is not None else index]
