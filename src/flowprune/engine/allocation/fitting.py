"""From a ranking and a budget to how many steps every class of groups takes: never above the target, and close below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.allocation.budget import Budget
from flowprune.engine.allocation.rounding import Rounding
from flowprune.engine.allocation.search import Ranking
from flowprune.engine.coupling.labels import Array
from flowprune.engine.signatures import Scope
from flowprune.errors import UnreachableBudgetError

CLOSE_ENOUGH = 0.005
"""A result within this share below the target ends the search for a closer one."""

Count = Callable[[Array], int]


@dataclass(frozen=True)
class Fit:
    """What leaves.

    Attributes:
        lost: [classes]: how many steps each class takes.
        asked: [classes]: how many the budget asked for, before widths were rounded.
        target: the largest count allowed; None where the budget is none of a count.
        smallest_step: by how much the count grows at least if any class gets a step back; None where the result is within
            ``CLOSE_ENOUGH`` of the target, or nothing leaves.
    """

    lost: Array
    asked: Array
    target: int | None = None
    smallest_step: int | None = None


def fit_channels(shares: NDArray[np.float64], ranking: Ranking, rounding: Rounding) -> Fit:
    """Each group keeps its share of its channels, rounded down, but never less than its limit allows; then the nearest width.

    Args:
        shares: [classes]: what is kept.
        ranking, rounding: the classes, and which counts are allowed.
    """
    sizes = np.array([len(scores) for scores in ranking.scores], dtype=np.int64)
    kept = np.floor(sizes * shares + 1e-9).astype(np.int64)
    asked = np.asarray(np.minimum(sizes - kept, ranking.limits), dtype=np.int64)
    return Fit(rounding.nearest(asked), asked)


def fit_count(budget: Budget, ranking: Ranking, rounding: Rounding, count: Count, unit: int = 1) -> Fit:
    """How many steps each class takes so that ``count(lost)`` meets the budget.

    Globally the classes' steps are ranked by score; locally by their place within their class, so that every class loses the same
    share. The shortest prefix of the ranking that meets the target is found by bisection, every prefix rounded to the nearest
    allowed widths. Its last channel may be a large one (a stream channel of a ResNet is 4 % of everything), so the search then
    goes on down the ranking from just above the target, skipping what would overshoot; what still fits comes back, the best first;
    and at last single steps are exchanged, as long as that brings the count closer to the target. Rounded widths only ever get
    something back: each ends at the nearest multiple, or wider where the target leaves room.

    Args:
        budget: of kind "macs" or "params".
        ranking, rounding: the classes in their order, and which counts are allowed.
        count: the exact count for a vector of losses.
        unit: what one of the user's units is in the count's (the traced batch size).

    Raises:
        UnreachableBudgetError: if even the largest allowed cut stays above the target.
    """
    classes = len(ranking.limits)
    sequence = _sequence(ranking, rounding.limits, budget.scope)
    target = budget.target(count(np.zeros(classes, dtype=np.int64)) // unit) * unit

    def asked(prefix: int) -> Array:
        return np.bincount(sequence[:prefix], minlength=classes).astype(np.int64)

    smallest = count(rounding.nearest(asked(len(sequence))))
    if smallest > target:
        multiples = f" in multiples of {rounding.multiple}" if rounding.multiple > 1 else ""
        raise UnreachableBudgetError(
            f"{budget} cannot be met: {target // unit:,} {budget.kind} were asked for, and the smallest model the constraints "
            f"allow{multiples} has {smallest // unit:,}; raise the budget or free more layers",
            -(-smallest // unit),
        )
    low, high = 0, len(sequence)
    while low < high:
        middle = (low + high) // 2
        if count(rounding.nearest(asked(middle))) <= target:
            high = middle
        else:
            low = middle + 1
    search = _Search(ranking, rounding, target, count, rounding.nearest(asked(high)))
    plain = rounding.multiple == 1
    if plain and high > 0:
        search.walk_down(sequence[high - 1 :], rounding.nearest(asked(high - 1)))
    search.refine(exchanging=plain)
    return Fit(search.best, asked(high), target // unit, search.smallest_step(unit))


def fit_of(lost: Array, ranking: Ranking, rounding: Rounding, count: Count, target: int) -> Fit:
    """The fit that takes these steps, chosen elsewhere, of an exact count and its largest value allowed."""
    return Fit(lost, lost, target, _Search(ranking, rounding, target, count, lost).smallest_step(1))


class _Search:
    """The closest result below the target so far, and ways to a closer one."""

    def __init__(self, ranking: Ranking, rounding: Rounding, target: int, count: Count, best: Array) -> None:
        self.ranking, self.limits, self.steps = ranking, rounding.limits, rounding.steps
        self.target, self.count = target, count
        self.best, self.reached = best, count(best)

    @property
    def is_close(self) -> bool:
        return self.reached >= self.target * (1 - CLOSE_ENOUGH)

    def _offer(self, candidate: Array) -> bool:
        """Keep a candidate that is below the target and closer to it; returns whether it is below."""
        reached = self.count(candidate)
        if self.reached < reached <= self.target:
            self.best, self.reached = candidate.copy(), reached
        return reached <= self.target

    def walk_down(self, sequence: Array, current: Array) -> None:
        """From ``current``, above the target, on down the ranking; what would end below it is offered, and skipped."""
        waiting = np.zeros(len(current), dtype=np.int64)
        for candidate in sequence.tolist():
            if self.is_close:
                return
            waiting[candidate] += 1
            if waiting[candidate] < self.steps[candidate]:
                continue  # a class of wide steps comes up once for all the channels that one of them takes
            waiting[candidate] = 0
            if current[candidate] + self.steps[candidate] <= self.limits[candidate]:
                current[candidate] += self.steps[candidate]
                if self._offer(current):
                    current[candidate] -= self.steps[candidate]

    def refine(self, exchanging: bool) -> None:
        """Give back what fits; then exchange single steps, if allowed, until nothing brings the count closer."""
        while not self.is_close:
            before = self.reached
            for number in self._best_first():
                while self.best[number] >= self.steps[number]:
                    candidate = self.best.copy()
                    candidate[number] -= self.steps[number]
                    held = self.best
                    if not self._offer(candidate) or self.best is held:
                        break
            if exchanging and not self.is_close:
                self._exchange()
            if self.reached == before:
                return

    def _exchange(self) -> None:
        start = self.best
        for back in self._best_first():
            for other in range(len(start)):
                if other != back and start[other] + self.steps[other] <= self.limits[other]:
                    candidate = start.copy()
                    candidate[back] -= self.steps[back]
                    candidate[other] += self.steps[other]
                    self._offer(candidate)
            if self.is_close:
                return

    def _best_first(self) -> list[int]:
        """The classes that can get a step back, the one whose removed channels score highest first."""
        able = [number for number in range(len(self.best)) if self.best[number] >= self.steps[number]]
        return sorted(able, key=lambda number: (-self.ranking.scores[number][self.best[number] - 1], number))

    def smallest_step(self, unit: int) -> int | None:
        """See ``Fit``; at least one of the user's units."""
        if self.is_close:
            return None
        grown = []
        for number in self._best_first():
            candidate = self.best.copy()
            candidate[number] -= self.steps[number]
            grown.append(self.count(candidate) - self.reached)
        return max(1, -(-min(grown) // unit)) if grown else None


def _sequence(ranking: Ranking, limits: Array, scope: Scope) -> Array:
    """The classes in the order in which they take a step. Equal keys keep the classes' order."""
    owners = np.repeat(np.arange(len(limits)), limits)
    places = np.concatenate([np.arange(int(limit)) for limit in limits] or [np.empty(0, dtype=np.int64)])
    if scope == "local":
        sizes = np.array([len(scores) for scores in ranking.scores], dtype=np.int64)
        keys = (places + 0.5) / sizes[owners]
    else:
        keys = np.concatenate(
            [scores[: int(limit)] for scores, limit in zip(ranking.scores, limits, strict=True)] or [np.empty(0)]
        )
    return owners[np.lexsort((places, owners, keys))].astype(np.int64)
