"""What the validation images choose before anything is trained: how much leaves where, by which criterion, in how many rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from flowprune.engine.allocation import Budget
from flowprune.engine.planning.exemptions import Ignored
from flowprune.engine.signatures import Inputs
from flowprune.errors import UnreachableBudgetError, counted
from flowprune.studies.compression.compression_record import CompressionRecord
from flowprune.studies.compression.cutting_ways import Cutting, Way
from flowprune.studies.compression.goal import Goal
from flowprune.studies.compression.scored import Scored
from flowprune.studies.compression.smallest_passing import FIRST
from flowprune.studies.sensitivity import Sensitivity, sensitivity

SHARES = (0.25, 0.5, 0.75)
"""That leave each group in the scan."""
OF_THE_TIME = 0.25
"""The scan may take this share of the time there is."""

Say = Callable[[str], None]


class _TooLongError(Exception):
    """The scan has taken its share of the time."""


def scanned(
    record: CompressionRecord,
    model: nn.Module,
    inputs: Inputs,
    evaluate: Callable[[nn.Module], Any],
    ignore: Ignored,
    limit: float | None,
    say: Say,
) -> Sensitivity | None:
    """What each coupled group costs alone, found now or before; None where there was no time for all of them.

    Args:
        record: where it is written down.
        model, inputs, ignore: of the compression.
        evaluate: on validation images.
        limit: seconds that the whole compression may take.
        say: receives a line.
    """

    def watched(done: int, cuts: int, group: str) -> None:
        if limit is not None and record.seconds > OF_THE_TIME * limit:
            raise _TooLongError
        if done == cuts:
            say(f"sensitivity: {counted(cuts, 'cut')} of single groups evaluated")

    def scan() -> dict[str, Any] | None:
        try:
            return sensitivity(
                model,
                inputs,
                lambda small: Scored.of(evaluate(small)).accuracy,
                shares=SHARES,
                ignore=ignore,
                progress=watched,
            ).as_dict()
        except _TooLongError:
            say("sensitivity: no time to scan every group; one ranking shares out")
            return None

    written = record.once("sensitivity", scan)
    return None if written is None else Sensitivity.from_dict(written)


def chosen_way(
    record: CompressionRecord,
    cutting: Cutting,
    goal: Goal,
    rounds: Sequence[int],
    evaluate: Callable[[nn.Module], Any],
    say: Say,
) -> Way:
    """The way whose untrained, refitted cut does best on the validation images; of equals the first.

    Ways are compared at the goal; a drop has none before it is found, so there half of the MACs, or the least that can be.

    Raises:
        BudgetError: the goal cannot be met.
    """
    budget = goal.budget if goal.budget is not None else _reachable(cutting, Budget("macs", share=FIRST))
    tried: dict[str, dict[str, Any]] = dict(record.content.get("ways", {}))

    def accuracy(way: Way) -> float:
        if str(way) not in tried:
            found = Scored.of(evaluate(cutting.untrained(way, budget))).accuracy
            tried[str(way)] = {**vars(way), "accuracy": found}
            record.put("ways", tried)
            say(f"{way}: {found:.2f} with nothing trained")
        return float(tried[str(way)]["accuracy"])

    ways = cutting.ways()
    best = max(ways, key=accuracy) if len(ways) * len(rounds) > 1 else ways[0]
    in_rounds = [replace(best, rounds=number) for number in rounds]
    chosen = max(in_rounds, key=accuracy) if len(in_rounds) > 1 else in_rounds[0]
    record.put("way", vars(chosen))
    say(f"chosen: {chosen}")
    return chosen


def _reachable(cutting: Cutting, budget: Budget) -> Budget:
    """The budget, or the least MACs to which the model can be cut."""
    while True:
        try:
            cutting.plan(cutting.ways()[0], budget)
            return budget
        except UnreachableBudgetError as error:
            budget = Budget("macs", absolute=error.smallest)
