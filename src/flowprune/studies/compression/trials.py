"""Cut to a budget and recover, once or for one budget after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from flowprune.engine.allocation import Budget
from flowprune.errors import BudgetError, ModelError, UnreachableBudgetError, counted
from flowprune.studies.compression.compression_record import CompressionRecord
from flowprune.studies.compression.cutting_ways import Cutting, Way
from flowprune.studies.compression.goal import Goal
from flowprune.studies.compression.paired_drop import Drop, paired_drop
from flowprune.studies.compression.rounds import Round, cut_between, distilled, refitted, share_of_round
from flowprune.studies.compression.scored import Scored
from flowprune.studies.compression.smallest_passing import next_share, smallest_passing

TRIALS = 5
"""Budgets that are tried at most."""
FOR_TRAINING = 0.9
"""The share of the time left that trainings are given; evaluations take the rest."""


class Trials:
    """Every budget that is tried leaves a model and a line in the record.

    Args:
        record: what was found before.
        cutting: the model.
        way: how it is cut.
        evaluate: on the validation images.
        train: see ``compress``.
        before: how good the dense model is.
        limit: seconds that the whole compression may take.
        say: receives a line a trial.
    """

    def __init__(
        self,
        record: CompressionRecord,
        cutting: Cutting,
        way: Way,
        evaluate: Callable[[nn.Module], Any],
        train: Callable[[nn.Module, Round], nn.Module | None] | None,
        before: Scored,
        limit: float | None,
        say: Callable[[str], None],
    ) -> None:
        self.record, self.cutting, self.way, self.evaluate, self.train = record, cutting, way, evaluate, train
        self.before, self.limit, self.say = before, limit, say

    def drop(self, after: Scored) -> Drop | None:
        """What a small model has lost; None where the evaluation gives one number."""
        if self.before.right is None or after.right is None:
            return None
        return paired_drop(self.before.right, after.right)

    def to(self, budget: Budget, left: int = 1) -> tuple[nn.Module, Scored]:
        """The trained small model under a budget, and how good it is on the validation images; made now or before.

        Args:
            budget: of MACs or time.
            left: trials, this one among them, that the time left is for.

        Raises:
            UnreachableBudgetError: no allowed cut meets it.
            BudgetError: the model as it is meets it.
        """
        name, known = str(budget), self._known()
        last = self.record.kept(f"{name}-round{self.way.rounds}", self.cutting.dense) if name in known else None
        if last is not None:
            return last, Scored.from_dict(known[name]["validation"])
        began = self.record.seconds
        shares = self.record.once(f"shares at {name}", lambda: self.cutting.shares(self.way, budget))
        if all(share == 1 for share in shares.values()):
            raise BudgetError(f"{budget} is met by the model as it is; there is nothing to cut")
        small = self.cutting.in_rounds(self.way, shares, partial(self._recovered, name, left))
        after = Scored.of(self.evaluate(small))
        made, drop = cut_between(self.cutting.dense, small), self.drop(after)
        line = {
            "macs": None if made is None else made.macs[1],
            "params": None if made is None else made.params[1],
            "validation": after.as_dict(),
            "drop": None if drop is None else vars(drop),
            "seconds": round(self.record.seconds - began, 1),
        }
        self.record.put("trials", {**self._known(), name: line})
        self.say(f"{name}: {after.accuracy:.2f} on the validation images" + (f", {drop}" if drop is not None else ""))
        return small, after

    def within(self, goal: Goal, trials: int) -> tuple[nn.Module, Scored]:
        """The smallest model of those tried that loses no more than the goal allows.

        Raises:
            BudgetError: none does.
        """
        assert goal.max_drop is not None
        tried: dict[float, bool] = {}
        nearest: Drop | None = None
        for number in range(trials):
            share = next_share(tried)
            if share is None:
                break
            budget = Budget("macs", share=share)
            out_of_time = self.limit is not None and self.record.seconds > self.limit
            if tried and out_of_time and str(budget) not in self._known():
                break
            try:
                drop = self.drop(self.to(budget, trials - number)[1])
            except UnreachableBudgetError as error:
                self.say(f"{budget}: {error}")
                tried[share] = False
                continue
            if drop is None:
                raise ModelError("evaluate gave one number; max_drop= needs whether each image is answered rightly")
            tried[share] = drop.at_most <= goal.max_drop
            nearest = drop if nearest is None or drop.at_most < nearest.at_most else nearest
        best = smallest_passing(tried)
        self.record.put("tried", [{"macs": share, "passed": passed} for share, passed in tried.items()])
        if best is None:
            raise BudgetError(
                f"no model of {counted(len(tried), 'trial')} keeps within {counted(goal.max_drop, 'point')} (the nearest: "
                f"{nearest}); train longer, give more validation images, or allow a larger drop"
            )
        return self.to(Budget("macs", share=best))

    def _known(self) -> dict[str, Any]:
        """The lines of all trials so far, by their budgets."""
        lines: dict[str, Any] = self.record.content.get("trials", {})
        return lines

    def _recovered(self, name: str, left: int, small: nn.Module, number: int) -> nn.Module:
        """The model of a round, refitted and trained, now or before."""
        dense, key = self.cutting.dense, f"{name}-round{number}"
        kept = self.record.kept(key, dense)
        if kept is not None:
            return kept
        small = refitted(small, dense, self.cutting.batches)
        if self.train is not None:
            small = distilled(small, dense, self.train, lambda teacher: self._told(teacher, key, left, number))
        self.record.keep(key, small, dense)
        return small

    def _told(self, teacher: Any, key: str, left: int, number: int) -> Round:
        of = self.way.rounds
        share, seconds = share_of_round(number, of), None
        if self.limit is not None:
            still = sum(share_of_round(one, of) for one in range(number, of + 1)) + (left - 1)
            seconds = max(0.0, FOR_TRAINING * (self.limit - self.record.seconds) * share / still)
        return Round(number, of, share, teacher, self.record.round_folder(key), seconds, key)
