"""The classes of coupled groups as a problem for an allocator, whose probes are real cuts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from torch import nn

from flowprune.engine.allocation import Fit, Plan, Ranking, Rounding
from flowprune.engine.allocation.fitting import Count, fit_of
from flowprune.engine.coupling.notes import Freeze
from flowprune.engine.interfaces import AllocationProblem, Allocator, Levels
from flowprune.engine.planning.assembly import assemble
from flowprune.engine.planning.contradictions import Contradiction
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.request import Request
from flowprune.engine.planning.selection import Recount, Scales, Selection, select
from flowprune.engine.surgery import Refusal, cut
from flowprune.errors import BudgetError


class ByAllocator:
    """Selects as ``select`` does, but for an allocator that says how many steps every class takes.

    A probe that cannot be cut makes other groups, as a refused cut does, and the allocator is asked again. Of the same classes one
    cut is certified: how many of their channels a probe takes makes no difference to what is proved.

    Args:
        allocator: who decides.
    """

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._certified: set[bytes] = set()
        self._kept: tuple[tuple[str, ...], dict[Hashable, Any]] = (), {}

    def __call__(
        self,
        coupled: CoupledModel,
        request: Request,
        model: nn.Module,
        inputs: Any,
        scales: Scales,
        recount: Recount | None = None,
    ) -> Selection:
        """See ``select``; that is what chooses where no allocator is asked for.

        Raises:
            BudgetError: the allocator's levels are not allowed, or above the target.
            CertificateError: a probe cannot be certified, and nothing is left that could stay for it.
        """

        if request.allocator is None:
            return select(coupled, request, model, inputs, scales, recount)

        def shared_out(
            ranking: Ranking, rounding: Rounding, count: Count, unit: int, selected: Callable[[Fit], Selection]
        ) -> Fit:
            def left(levels: Levels) -> int:
                return -(-count(levels) // unit)

            def probe(levels: Levels) -> nn.Module:
                return self._probe(coupled, request, model, inputs, selected(Fit(levels, levels)), levels)

            coupling = coupled.coupling
            units = tuple(coupling.groups[groups[0]].name for groups in coupling.classes)
            if self._kept[0] != (these := (*units, *map(str, rounding.limits), *map(str, rounding.steps))):
                self._kept = these, {}
            problem = AllocationProblem(
                units=units,
                scores=ranking.scores,
                limits=rounding.limits.copy(),
                steps=rounding.steps.copy(),
                count=left,
                target=request.budget.target(left(np.zeros(len(ranking.limits), dtype=np.int64))),
                counted=request.budget.kind,
                rounding=rounding.nearest,
                probe=probe,
                kept=self._kept[1],
            )
            levels = checked_levels(self._allocator(problem), problem, type(self._allocator).__name__)
            return fit_of(levels, ranking, rounding, left, problem.target)

        while True:
            try:
                return select(coupled, request, model, inputs, scales, recount, shared_out)
            except _RefusedProbeError as refused:
                self._certified.clear()  # the classes will be others
                refused.settle(coupled)

    def _probe(
        self,
        coupled: CoupledModel,
        request: Request,
        model: nn.Module,
        inputs: Any,
        selection: Selection,
        levels: Levels,
    ) -> nn.Module:
        made = assemble(selection, coupled, request)
        if not isinstance(made, Plan):
            raise _RefusedProbeError(made)
        classes = (levels > 0).tobytes()
        if not made.is_empty and classes not in self._certified:
            refusal = coupled.refusal_of(made, model, inputs, selection.removed)
            if refusal is not None:
                raise _RefusedProbeError(refusal=refusal)
            self._certified.add(classes)
        return cut(model, made).eval()


class _RefusedProbeError(Exception):
    """A probe that cannot be cut; the groups have to be made anew before the allocator is asked again."""

    def __init__(self, conflicts: Sequence[Freeze | Contradiction] = (), refusal: Refusal | None = None) -> None:
        super().__init__("a probe cannot be cut")
        self.conflicts, self.refusal = conflicts, refusal

    def settle(self, coupled: CoupledModel) -> None:
        """Freeze, or bring into step, what stands against the cut."""
        if self.refusal is not None:
            coupled.freeze_refused(self.refusal)
        else:
            coupled.settle(self.conflicts)


def checked_levels(levels: Levels, problem: AllocationProblem, allocator: str) -> Levels:
    """What an allocator has returned, if it keeps its promise.

    Raises:
        BudgetError: it is not one whole number a unit, from 0 to the limit and of an allowed width, or leaves more than the target.
    """
    found = np.asarray(levels)
    if found.shape != problem.limits.shape or found.dtype.kind not in "iu":
        raise BudgetError(
            f"{allocator} must return {len(problem.units)} whole numbers; got {found.dtype} {list(found.shape)}"
        )
    found = found.astype(np.int64)
    wrong = np.flatnonzero((found < 0) | (found > problem.limits))
    if len(wrong):
        unit = int(wrong[0])
        raise BudgetError(
            f"{allocator} takes {found[unit]} of {problem.units[unit]}, which may lose 0 to {problem.limits[unit]}"
        )
    allowed = problem.rounding(found)
    if not np.array_equal(allowed, found):
        unit = int(np.flatnonzero(allowed != found)[0])
        raise BudgetError(
            f"{allocator} takes {found[unit]} of {problem.units[unit]}, which leaves no allowed width; the nearest is "
            f"{allowed[unit]}"
        )
    left = problem.count(found)
    if left > problem.target:
        raise BudgetError(f"{allocator} leaves {left:,} {problem.counted}, and the target is {problem.target:,}")
    return found
